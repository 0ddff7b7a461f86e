"""Every number of the methods, as they stand in model.json. No OpenCV here: models are listed without it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

RIM: Final = 0.3
"""Width of the ring around a nucleus that is taken for its cytoplasm, in radii of the median nucleus of the field:
blasts have little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlayParameters:
    """The numbers of the method. Lengths are fractions of the image's width or height, colours are 0 to 255."""

    zone: float = 0.28
    """The lower right corner that is searched reaches over this part of the width and of the height."""
    reach: float = 0.16
    """A bar ends within this distance of the right and of the lower edge."""
    black: int = 120
    """Ink is black where no channel is brighter …"""
    neutral: int = 42
    """… and the channels differ by no more: nuclei, even the darkest, are bluer."""
    saturated: int = 30
    """Ink is red or green where that channel exceeds both others by this, cyan where red is lower by twice this."""
    white: int = 243
    """The box behind a bar is white in all channels."""
    pen: float = 0.028
    """Strokes are finer than this part of the width."""
    margin: float = 0.009
    """The mask is widened by this, for the fringes that JPEG leaves around ink."""
    ticks: float = 0.5
    """Figures alone are widened by this part of their width, to both sides: faint ticks end the bar there."""
    dark: int = 36
    """The surround of an eyepiece picture is darker than this in all channels."""
    least_surround: float = 0.02
    """Less of the image than this, connected to its edge, is no surround …"""
    most_surround: float = 0.80
    """… and more is a dark image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StainParameters:
    """Weights of the stain channel, on white-balanced channels of 0 to 255. Chosen in docs/decisions/0001."""

    white_percentile: float = 95.0
    """The empty background is taken to be as bright as this percentile of each channel."""
    red_absorption: float = 0.36
    """Weight of 255 − R: the thiazine dyes of nuclei absorb red, haemoglobin and eosin hardly do."""
    blue_over_green: float = 0.60
    """Weight of max(B − G, 0): violet against grey."""
    red_over_green: float = 0.30
    """Weight of max(R − G, 0): the pink of pale nuclei."""
    green_over_red: float = 1.0
    """Weight, negative, of max(G − R, 0): the slate blue of red cells in some stains, which nuclei don't have."""
    blur: float = 1.0
    """Standard deviation in working pixels of the smoothing before the threshold; 0 for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationParameters:
    """Every number of the method; they stand in model.json. Areas of nuclei are relative to a red cell's."""

    working_side: int = 640
    """Longer images are reduced to this before anything is looked at."""
    stain: StainParameters = field(default_factory=StainParameters)
    overlays: OverlayParameters = field(default_factory=OverlayParameters)
    least_threshold: float = 30.0
    """The stain of a nucleus's pixel exceeds this, whatever Otsu says."""
    least_stain: float = 40.0
    """The mean stain of a nucleus is at least this …"""
    least_contrast: float = 1.25
    """… and this many times the mean stain of the class below it (red cells, cytoplasm)."""
    least_violet: float = 1.4
    """Absorption of green over that of blue is at least this in nuclei and about one in red cells; and …"""
    least_evidence: float = 55.0
    """… stain × (violet ratio − 0.9) is at least this: the paler, the more violet it must be."""
    most_share: float = 0.30
    """Nuclei that cover more of the field than this …"""
    crowded_violet: float = 4.0
    """… are believed only when they are so violet: else they are red cells."""
    least_area: float = 0.40
    """Smaller than this many red cells: platelet or debris."""
    convex: float = 0.945
    """A nucleus whose area is more than this share of its convex hull is not looked at for splitting."""
    least_share: float = 0.12
    """Smaller than this share of the typical nucleus of the field: debris."""
    least_side: float = 0.012
    """What is smaller than the square of this part of the image's longer side is not looked at."""
    brush: float = 0.09
    """Width of the opening, relative to the root of the area of a typical nucleus; at least 3 pixels."""
    no_red_cell: float = 0.5
    """Where no red cells are seen, one is taken to have this many times the area of a typical nucleus …"""
    largest_red_cell: float = 2.2
    """… and never more than this many where they lie in a crowd."""
    largest: float = 0.6
    """More of the image than this is no nucleus."""
    least_solidity: float = 0.55
    """More ragged than this: stain debris."""
    hole: float = 0.25
    """Holes up to this share of their nucleus are filled."""
    neck: float = 0.80
    """Touching nuclei part where the neck is narrower than this share of the smaller one."""
    lobe_gap: float = 0.6
    """Lobes of one nucleus lie no further apart than this many red-cell radii."""
    lobe_area: float = 0.7
    """What is larger than this many red cells is a whole nucleus and no lobe."""
    whole_area: float = 2.2
    """Joined lobes have no more than this many red cells."""
    split_area: float = 0.75
    """The parts of touching nuclei have at least this many red cells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityParameters:
    """Thresholds of the flags; they stand in model.json. How they were chosen: docs/segmentation.md."""

    least_sharpness: float = 0.10
    """Below this a field is blurred."""
    least_contrast: float = 20.0
    """Grey levels between the darkest and the brightest 2 %; with fewer, sharpness means nothing and isn't judged."""
    least_background: float = 90.0
    """A background darker than this is underexposed."""
    most_burnt: float = 0.97
    """A larger share of pixels at the camera's limit in all channels is overexposed."""
