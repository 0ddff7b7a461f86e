"""What synthetic smears look like: the stain and camera of a laboratory, and the morphology of each class's cells."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

Dye = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class SmearStyle:
    """What one laboratory's smears look like. Dyes are optical densities in R, G and B."""

    lamp: tuple[int, int, int]
    """Colour of the empty background."""
    red_cell: Dye
    nucleus: Dye
    cytoplasm: Dye
    red_cells: tuple[int, int] = (35, 70)
    """Least and most red cells on 320×240 pixels."""
    red_cell_radius: float = 11.0
    """In pixels, whatever the size of the field; nuclei scale with it."""
    pallor: float = 0.65
    """How much paler a red cell is in its middle."""
    platelets: int = 6
    vignette: float = 0.10
    """How much darker the field is in the corner furthest from the lamp's centre."""
    blur: float = 0.4
    """Standard deviation in pixels."""
    noise: float = 2.0
    """Standard deviation in grey levels."""
    scale_bar: str = ""
    """"black", "red", "green", "white-box" or none."""


STYLES: Final = MappingProxyType(
    {
        "violet": SmearStyle(
            lamp=(252, 250, 253),
            red_cell=(0.14, 0.20, 0.10),
            nucleus=(0.70, 1.35, 0.16),
            cytoplasm=(0.22, 0.26, 0.04),
            scale_bar="white-box",
        ),
        "slate": SmearStyle(
            lamp=(246, 252, 250),
            red_cell=(0.36, 0.29, 0.15),
            nucleus=(0.66, 0.98, 0.08),
            cytoplasm=(0.32, 0.25, 0.04),
            red_cells=(45, 85),
            blur=0.5,
            scale_bar="red",
        ),
        "pink": SmearStyle(
            lamp=(253, 251, 252),
            red_cell=(0.20, 0.20, 0.13),
            nucleus=(0.22, 0.62, 0.05),
            cytoplasm=(0.07, 0.16, 0.02),
            red_cells=(25, 55),
            scale_bar="black",
        ),
        "orange": SmearStyle(
            lamp=(222, 218, 214),
            red_cell=(0.10, 0.30, 0.36),
            nucleus=(0.62, 1.10, 0.14),
            cytoplasm=(0.16, 0.24, 0.10),
            red_cells=(30, 60),
            noise=3.0,
            vignette=0.16,
        ),
        "green": SmearStyle(
            lamp=(188, 204, 196),
            red_cell=(0.16, 0.44, 0.32),
            nucleus=(0.80, 1.30, 0.30),
            cytoplasm=(0.26, 0.30, 0.12),
            red_cells=(40, 75),
            noise=3.0,
            vignette=0.20,
            scale_bar="green",
        ),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Morphology:
    """The cell of one class. Lengths are in radii of a red cell."""

    nucleus: tuple[float, float]
    """Least and most radius of the nucleus."""
    cytoplasm: tuple[float, float]
    """Least and most ratio of the cell's radius to the nucleus's."""
    density: float
    """Dye in the nucleus, relative to the style's."""
    chromatin: float
    """Contrast of the chromatin's texture."""
    grain: float
    """Size of its clumps, in pixels at a red-cell radius of 11."""
    nucleoli: tuple[int, int]
    irregular: float
    """How far the outline strays from a circle."""
    basophilic: float
    """Dye in the cytoplasm, relative to the style's."""


MORPHOLOGY: Final = MappingProxyType(
    {
        "benign": Morphology(
            nucleus=(0.92, 1.06),
            cytoplasm=(1.10, 1.20),
            density=1.20,
            chromatin=0.06,
            grain=2.0,
            nucleoli=(0, 0),
            irregular=0.02,
            basophilic=0.8,
        ),
        "early-pre-b": Morphology(
            nucleus=(1.12, 1.30),
            cytoplasm=(1.30, 1.48),
            density=1.0,
            chromatin=0.10,
            grain=1.2,
            nucleoli=(0, 1),
            irregular=0.04,
            basophilic=1.1,
        ),
        "pre-b": Morphology(
            nucleus=(1.24, 1.46),
            cytoplasm=(1.06, 1.14),
            density=1.05,
            chromatin=0.34,
            grain=2.6,
            nucleoli=(0, 0),
            irregular=0.04,
            basophilic=1.6,
        ),
        "pro-b": Morphology(
            nucleus=(1.44, 1.72),
            cytoplasm=(1.12, 1.26),
            density=0.80,
            chromatin=0.08,
            grain=1.2,
            nucleoli=(2, 4),
            irregular=0.09,
            basophilic=1.0,
        ),
    }
)
