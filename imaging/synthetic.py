"""Synthetic blood smears with exactly known nuclei, boxes and counts, for tests, the demo and its small model.

Dyes add up in optical density (Beer–Lambert): a pixel is lamp × exp(−density). Four classes of leukocyte differ in the
morphology of the cell only: size of the nucleus, share of the cytoplasm, chromatin, nucleoli. Stain, density of cells,
illumination, focus, noise and scale bar belong to the style, and any class comes in any style. They are not pictures of
disease: a model trained on them knows nothing about patients.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from allq.classes import CLASSES
from imaging.styles import MORPHOLOGY, STYLES, Morphology, SmearStyle

Pixels = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]

__all__ = ["MORPHOLOGY", "STYLES", "Morphology", "SmearStyle", "SyntheticField", "render_field", "write_slides"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticField:
    """A rendered field with its truth."""

    pixels: Pixels
    """RGB uint8 (h, w, 3)."""
    nuclei: npt.NDArray[np.int32]
    """Labels of the nuclei, 1 to n, int32 (h, w)."""
    boxes: npt.NDArray[np.int32]
    """x, y, width, height of each nucleus, int32 (n, 4)."""
    kinds: tuple[str, ...]
    """Class of each leukocyte, in the order of the labels."""
    klass: str
    """Class of the field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cell:
    x: float
    y: float
    nucleus: float
    cell: float
    kind: str


def render_field(
    rng: np.random.Generator,
    *,
    klass: str,
    style: SmearStyle,
    size: tuple[int, int] = (320, 240),
    leukocytes: tuple[int, int] = (3, 12),
    touching: float = 0.3,
) -> SyntheticField:
    """Render one field of `size` (width, height) with at least and at most so many `leukocytes`.

    In a field of a suspect class four of five leukocytes are of that class and the others benign. `touching` is the
    share of leukocytes whose nucleus is laid against an earlier one's. Where no room is left, fewer are drawn.
    """
    width, height = size
    cells = _placed(
        rng, klass, style, size, count=int(rng.integers(leukocytes[0], leukocytes[1] + 1)), touching=touching
    )
    density = np.zeros((height, width, 3), np.float32)
    _draw_red_cells(rng, density, style, cells)
    _draw_platelets(rng, density, style, cells)
    nuclei = np.zeros((height, width), np.int32)
    for label, cell in enumerate(cells, start=1):
        _draw_leukocyte(rng, density, nuclei, style=style, cell=cell, label=label)
    pixels = _photographed(rng, density, style)
    draw_scale_bar(pixels, style.scale_bar)
    boxes = [cv2.boundingRect(cv2.inRange(nuclei, label, label)) for label in range(1, len(cells) + 1)]
    return SyntheticField(
        pixels=pixels,
        nuclei=nuclei,
        boxes=np.array(boxes, np.int32).reshape(-1, 4),
        kinds=tuple(cell.kind for cell in cells),
        klass=klass,
    )


def _placed(
    rng: np.random.Generator, klass: str, style: SmearStyle, size: tuple[int, int], *, count: int, touching: float
) -> list[_Cell]:
    cells: list[_Cell] = []
    for number in range(count):
        # The first is of the field's own class, so that no field belies its label.
        kind = klass if number == 0 or rng.random() < 0.8 else CLASSES[0]
        form = MORPHOLOGY[kind]
        nucleus = style.red_cell_radius * rng.uniform(*form.nucleus)
        whole = nucleus * rng.uniform(*form.cytoplasm)
        beside = cells[int(rng.integers(len(cells)))] if cells and rng.random() < touching else None
        for _ in range(40):
            x, y = _somewhere(rng, size, nucleus, beside)
            if _free(x, y, nucleus, whole, cells=cells, beside=beside, size=size):
                cells.append(_Cell(x=x, y=y, nucleus=nucleus, cell=whole, kind=kind))
                break
    return cells


def _somewhere(
    rng: np.random.Generator, size: tuple[int, int], nucleus: float, beside: _Cell | None
) -> tuple[float, float]:
    if beside is None:
        return rng.uniform(0, size[0]), rng.uniform(0, size[1])
    angle = rng.uniform(0, 2 * math.pi)
    distance = (nucleus + beside.nucleus) * rng.uniform(0.92, 1.0)
    return beside.x + distance * math.cos(angle), beside.y + distance * math.sin(angle)


def _free(
    x: float,
    y: float,
    nucleus: float,
    whole: float,
    *,
    cells: list[_Cell],
    beside: _Cell | None,
    size: tuple[int, int],
) -> bool:
    # At least four fifths of the nucleus are in view, and none lies under the scale bar.
    if not (0.5 * nucleus <= x <= size[0] - 0.5 * nucleus and 0.5 * nucleus <= y <= size[1] - 0.5 * nucleus):
        return False
    if x + nucleus > 0.80 * size[0] and y + nucleus > 0.84 * size[1]:
        return False
    return all(
        math.hypot(x - other.x, y - other.y) >= (whole + other.cell + 2 if other is not beside else 0)
        for other in cells
    )


def _window(x: float, y: float, reach: float, shape: tuple[int, ...]) -> tuple[slice, slice] | None:
    left, right = max(0, int(x - reach)), min(shape[1], int(x + reach) + 2)
    top, bottom = max(0, int(y - reach)), min(shape[0], int(y + reach) + 2)
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def _polar(window: tuple[slice, slice], x: float, y: float) -> tuple[Plane, Plane]:
    """Distance from and angle around (x, y) of each pixel of a window."""
    dy = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] - np.float32(y)
    dx = np.arange(window[1].start, window[1].stop, dtype=np.float32)[None, :] - np.float32(x)
    distance, angle = cv2.cartToPolar(np.broadcast_to(dx, (len(dy), dx.shape[1])).copy(), dy + np.zeros_like(dx))
    return distance.astype(np.float32, copy=False), angle.astype(np.float32, copy=False)


def _edge(inside: npt.NDArray[np.floating[Any]], softness: float) -> Plane:
    """1 well inside, 0 well outside, 0.5 where `inside` (pixels to the edge) is 0."""
    covered: Plane = np.clip(0.5 + inside / (2 * softness), 0, 1).astype(np.float32, copy=False)
    return covered


def _wavy(rng: np.random.Generator, angle: Plane, irregular: float) -> Plane:
    """Relative radius at each angle: a circle with a random oval, triangle and square added."""
    radius: Plane = np.ones_like(angle)
    for order in (2, 3, 4):
        radius += np.float32(irregular * rng.normal() / (order - 0.5)) * np.cos(
            order * angle + np.float32(rng.uniform(0, 2 * math.pi))
        )
    return radius


def _draw_red_cells(rng: np.random.Generator, density: Plane, style: SmearStyle, cells: list[_Cell]) -> None:
    height, width = density.shape[:2]
    count = round(rng.integers(style.red_cells[0], style.red_cells[1] + 1) * width * height / (320 * 240))
    dye = np.array(style.red_cell, np.float32)
    for x, y in rng.uniform((-8, -8), (width + 8, height + 8), (count, 2)):
        radius = style.red_cell_radius * rng.uniform(0.88, 1.1)
        if any(math.hypot(x - cell.x, y - cell.y) < cell.cell + 0.75 * radius for cell in cells):
            continue
        window = _window(x, y, 1.2 * radius, density.shape)
        if window is None:
            continue
        distance, angle = _polar(window, x, y)
        distance = distance / _wavy(rng, angle, 0.03)
        relative = distance / np.float32(radius)
        profile = 1 - np.float32(style.pallor) * np.exp(-((relative / 0.45) ** 2))
        amount = _edge(np.float32(radius) - distance, 0.6) * profile * np.float32(rng.uniform(0.8, 1.15))
        density[window] += amount[:, :, None] * dye


def _draw_platelets(rng: np.random.Generator, density: Plane, style: SmearStyle, cells: list[_Cell]) -> None:
    height, width = density.shape[:2]
    dye = 0.5 * np.array(style.nucleus, np.float32)
    for x, y in rng.uniform((0, 0), (width, height), (int(rng.poisson(style.platelets)), 2)):
        radius = style.red_cell_radius * rng.uniform(0.14, 0.30)
        if any(math.hypot(x - cell.x, y - cell.y) < cell.cell + 2 * radius for cell in cells):
            continue
        window = _window(x, y, 2 * radius + 1, density.shape)
        if window is not None:
            distance, angle = _polar(window, x, y)
            inside = np.float32(radius) * _wavy(rng, angle, 0.15) - distance
            density[window] += _edge(inside, 1.0)[:, :, None] * dye


def _draw_leukocyte(
    rng: np.random.Generator,
    density: Plane,
    nuclei: npt.NDArray[np.int32],
    *,
    style: SmearStyle,
    cell: _Cell,
    label: int,
) -> None:
    form = MORPHOLOGY[cell.kind]
    window = _window(cell.x, cell.y, 1.35 * cell.cell, density.shape)
    if window is None:
        return
    distance, angle = _polar(window, cell.x, cell.y)
    shape = _wavy(rng, angle, form.irregular)
    # The nucleus lies off the middle of its cell, as far as the cytoplasm allows.
    body = _edge(np.float32(cell.cell) * (shape + 1) / 2 - distance, 0.7)
    inside = np.float32(cell.nucleus) * shape - distance
    core = _edge(inside, 0.6)
    # A nucleus drawn earlier stays in front, and keeps its pixels.
    taken = (nuclei[window] > 0).astype(np.float32)
    body, core = body * (1 - taken), core * (1 - taken)
    cytoplasm = np.array(style.cytoplasm, np.float32) * np.float32(form.basophilic)
    grain = _texture(round(form.grain * style.red_cell_radius / 11 * 10))
    top, left = (int(rng.integers(0, 256 - extent)) for extent in core.shape)
    chromatin = 1 + np.float32(form.chromatin) * grain[top : top + core.shape[0], left : left + core.shape[1]]
    chromatin = chromatin * _nucleoli(rng, window, cell, form)
    # Nuclei that touch show a paler seam: each is thinner towards its edge.
    dome = 0.72 + 0.28 * np.clip(inside / (0.25 * cell.nucleus), 0, 1)
    amount = (np.float32(form.density * rng.uniform(0.92, 1.08)) * np.clip(chromatin, 0.3, 1.8) * dome)[:, :, None]
    patch = density[window]
    patch += body[:, :, None] * (cytoplasm - patch)
    patch += core[:, :, None] * (amount * np.array(style.nucleus, np.float32) - patch)
    nuclei[window][(inside > 0) & (taken == 0)] = label


def _nucleoli(rng: np.random.Generator, window: tuple[slice, slice], cell: _Cell, form: Morphology) -> Plane:
    """Factor on the nucleus's dye: pale spots, 1 elsewhere."""
    factor = np.ones((window[0].stop - window[0].start, window[1].stop - window[1].start), np.float32)
    for _ in range(int(rng.integers(form.nucleoli[0], form.nucleoli[1] + 1))):
        reach, turn = cell.nucleus * rng.uniform(0.1, 0.55), rng.uniform(0, 2 * math.pi)
        distance, _ = _polar(window, cell.x + reach * math.cos(turn), cell.y + reach * math.sin(turn))
        factor *= 1 - np.float32(0.5) * _edge(np.float32(cell.nucleus * rng.uniform(0.13, 0.2)) - distance, 1.0)
    return factor


@cache
def _texture(tenths: int) -> Plane:
    """A 256×256 field of clumps of mean 0 and deviation 1; `tenths` of a pixel is the size of the clumps."""
    noise = np.random.default_rng(tenths).standard_normal((256, 256), np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), max(0.3, tenths / 10))
    texture: Plane = ((smooth - smooth.mean()) / smooth.std()).astype(np.float32)
    texture.setflags(write=False)
    return texture


@cache
def _grain(height: int, width: int) -> Plane:
    """Camera noise, deviation 1, larger than a field so that each takes another part of it: (h + 64, w + 64, 3)."""
    grain = np.random.default_rng(7).standard_normal((height + 64, width + 64, 3), np.float32)
    grain.setflags(write=False)
    return grain


def _photographed(rng: np.random.Generator, density: Plane, style: SmearStyle) -> Pixels:
    """Light through the dyes, onto a camera: RGB uint8 (h, w, 3)."""
    height, width = density.shape[:2]
    blurred = cv2.GaussianBlur(density, (0, 0), style.blur * rng.uniform(0.8, 1.2))
    light: Plane = np.exp(-blurred.astype(np.float32, copy=False))
    centre = rng.uniform(0.3, 0.7, 2)
    row = (np.arange(height, dtype=np.float32)[:, None] / height - np.float32(centre[0])) ** 2
    column = (np.arange(width, dtype=np.float32)[None, :] / width - np.float32(centre[1])) ** 2
    lamp = 1 - np.float32(style.vignette) * (row + column)
    light *= lamp[:, :, None] * np.array(style.lamp, np.float32)
    top, left = int(rng.integers(0, 64)), int(rng.integers(0, 64))
    light += np.float32(style.noise) * _grain(height, width)[top : top + height, left : left + width]
    return cv2.convertScaleAbs(np.clip(light, 0, 255)).astype(np.uint8, copy=False)


def draw_scale_bar(pixels: Pixels, kind: str) -> None:
    if not kind:
        return
    height, width = pixels.shape[:2]
    colour = {"red": (205, 35, 45), "green": (40, 225, 60)}.get(kind, (15, 15, 15))
    right, bottom = round(0.965 * width), round(0.955 * height)
    left = right - round(0.10 * width)
    if kind == "white-box":
        cv2.rectangle(pixels, (left - 4, bottom - 14), (right + 4, bottom + 4), (255, 255, 255), cv2.FILLED)
    cv2.line(pixels, (left, bottom), (right, bottom), colour, 1)
    for x in (left, right):
        cv2.line(pixels, (x, bottom - 3), (x, bottom), colour, 1)
    cv2.putText(pixels, "10 um", (left + 1, bottom - 4), cv2.FONT_HERSHEY_PLAIN, 0.55, colour, 1, cv2.LINE_AA)


TRUTH_COLUMNS = ("slide", "field", "class", "leukocytes", "note")


def write_slides(
    folder: Path, *, slides: int, fields: int, seed: int, progress: Callable[[int], None] | None = None
) -> Path:
    """Write `slides` folders of `fields` images each into `folder`; return the truth, a CSV file beside `folder`.

    Slides go round the classes, benign first, each in a style and density of its own; on a suspect slide one field
    in seven is benign, as in life. The last field of the first slide is blank and the last of the second (or the one
    before, on a single slide) is a JPEG cut off in the middle. The truth has a line a field: slide, field, class (empty
    for those two), leukocytes, note (`blank`, `corrupt` or nothing). `progress` is told how many images are written.
    The same seed gives the same bytes.
    """
    truth = folder.with_name(folder.name + "-truth.csv")
    folder.mkdir(parents=True, exist_ok=True)
    blank = (0, fields - 1)
    corrupt = (1, fields - 1) if slides > 1 else (0, fields - 2)
    lines = []
    for slide in range(slides):
        name = f"SYN-{seed % 10000:04d}-{slide + 1:03d}"
        (folder / name).mkdir(exist_ok=True)
        for field in range(fields):
            note = {blank: "blank", corrupt: "corrupt"}.get((slide, field), "")
            rendered = _slide_field(seed, slide, field, blank=note == "blank")
            suffix = ".png" if field % 3 == 2 and not note else ".jpg"
            data = _encoded(rendered.pixels, suffix)
            path = folder / name / f"field-{field + 1:03d}{suffix}"
            path.write_bytes(data[: len(data) // 2] if note == "corrupt" else data)
            lines.append(
                (name, path.name, "" if note else rendered.klass, len(rendered.kinds) if not note else 0, note)
            )
            if progress is not None:
                progress(len(lines))
    with truth.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(TRUTH_COLUMNS)
        writer.writerows(lines)
    return truth


def _slide_field(seed: int, slide: int, field: int, *, blank: bool) -> SyntheticField:
    own = np.random.default_rng([seed, slide])
    names = sorted(STYLES)
    style = STYLES[names[(slide + int(own.integers(len(names)))) % len(names)]]
    crowd = float(own.uniform(0.7, 1.3))
    style = replace(
        style,
        red_cells=(round(style.red_cells[0] * crowd), round(style.red_cells[1] * crowd)),
        blur=style.blur * float(own.uniform(0.8, 1.3)),
        platelets=0 if blank else style.platelets,
    )
    if blank:
        style = replace(style, red_cells=(0, 0))
    fullest = int(own.integers(7, 14))
    rng = np.random.default_rng([seed, slide, field])
    of_slide = CLASSES[slide % len(CLASSES)]
    klass = CLASSES[0] if rng.random() < 1 / 7 else of_slide
    return render_field(rng, klass=klass, style=style, leukocytes=(0, 0) if blank else (3, fullest))


def _encoded(pixels: Pixels, suffix: str) -> bytes:
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 92]
    return cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()
