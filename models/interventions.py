"""What a model says of a field when one thing about it is changed: the test of what its calls are read from.

Leukocytes painted out, put on another smear or on plain glass; the scale bar taken away, added or drawn otherwise; the
stain, the light, the focus, the compression and the magnification of another day. Each changed field goes the whole
way, through segmentation and checks, as a file would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from imaging.decode import Decoded
from imaging.formats import ImageFormat
from imaging.layers import cell_mask, paint_out, put_together, without_cells
from imaging.overlays import find_bar, find_overlays, without_overlays
from imaging.parameters import SegmentationParameters
from imaging.synthetic import draw_scale_bar
from models.artefact import LeukocyteRule
from models.augment import Augmentation, vary_stain
from models.classifier import Assessment, Classifier, PreparedField
from models.data import LabelledField, read_pixels
from models.metrics import share_interval
from models.options import Progress, silent

Pixels = NDArray[np.uint8]

BARS: Final = ("black", "red", "green", "white-box")
_BATCH: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A field to be changed."""

    field: LabelledField
    pixels: Pixels
    """RGB (H, W, 3), as decoded"""
    cleaned: Pixels
    """without overlays"""
    nuclei: NDArray[np.int32]
    """(H, W): 0, or the leukocyte's number from 1 on"""
    parameters: SegmentationParameters
    assessment: Assessment
    """what the model says of it as it is"""

    def random(self, salt: str) -> np.random.Generator:
        """The same for the same file and salt, whatever else is measured."""
        return np.random.default_rng([int(self.field.sha256[:8], 16), *salt.encode()])


Change = Callable[[Subject, Sequence[Subject]], Pixels | None]
"""The changed field, given all subjects; None where the change can't be made."""


def emptied(subject: Subject, _: Sequence[Subject]) -> Pixels:
    """Leukocytes and all else stained like nuclei painted out."""
    return without_cells(subject.cleaned, subject.nuclei, subject.parameters)


def moved(subject: Subject, others: Sequence[Subject]) -> Pixels | None:
    """The leukocytes on the emptied smear of another stream."""
    foreign = [other for other in others if other.field.stream != subject.field.stream]
    if not foreign:
        return None
    random = subject.random("moved")
    smear = emptied(foreign[int(random.integers(len(foreign)))], others)
    height, width = subject.cleaned.shape[:2]
    smear = np.asarray(cv2.resize(smear, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return put_together(subject.cleaned, cell_mask(subject.nuclei), smear)


def on_plain_glass(subject: Subject, _: Sequence[Subject]) -> Pixels:
    """The leukocytes on glass of the colour of the field's own empty background."""
    cells = cell_mask(subject.nuclei)
    bare = subject.cleaned[cells == 0]
    colour = np.percentile(bare if len(bare) else subject.cleaned.reshape(-1, 3), 90, axis=0).astype(np.uint8)
    return put_together(subject.cleaned, cells, np.broadcast_to(colour, subject.cleaned.shape))


def bar_removed(subject: Subject, _: Sequence[Subject]) -> Pixels | None:
    """The scale bar painted over; only fields that have one."""
    return subject.cleaned if find_bar(subject.pixels) is not None else None


def bar_added(subject: Subject, _: Sequence[Subject]) -> Pixels | None:
    """A scale bar where there was none."""
    return _barred(subject) if find_bar(subject.pixels) is None else None


def bar_restyled(subject: Subject, _: Sequence[Subject]) -> Pixels | None:
    """Another style of scale bar in the place of the one that was there."""
    return _barred(subject) if find_bar(subject.pixels) is not None else None


def _barred(subject: Subject) -> Pixels:
    drawn = subject.cleaned.copy()
    draw_scale_bar(drawn, BARS[int(subject.random("bar").integers(len(BARS)))])
    return drawn


def restained(subject: Subject, _: Sequence[Subject]) -> Pixels:
    """Stain and lamp of another day: optical densities by ±15 %, their mixing by ±5 %, white by ±4 %."""
    how = Augmentation(stain_gain=0.15, stain_mix=0.05, stain_shift=0.04, strength=0.1)
    return vary_stain(subject.pixels, subject.random("stain"), how)


def exposed(gain: float) -> Change:
    """Light times `gain`."""

    def change(subject: Subject, _: Sequence[Subject]) -> Pixels:
        return np.asarray(cv2.convertScaleAbs(subject.pixels, alpha=gain), np.uint8)

    return change


def compressed(quality: int) -> Change:
    """Stored as JPEG of this quality."""

    def change(subject: Subject, _: Sequence[Subject]) -> Pixels:
        packed = cv2.imencode(".jpg", subject.pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.ascontiguousarray(np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])

    return change


def blurred(share: float) -> Change:
    """Out of focus: blurred with a standard deviation of `share` of the width."""

    def change(subject: Subject, _: Sequence[Subject]) -> Pixels:
        return np.asarray(cv2.GaussianBlur(subject.pixels, (0, 0), share * subject.pixels.shape[1]), np.uint8)

    return change


def magnified(factor: float) -> Change:
    """Cells larger or smaller by `factor`; what lies beyond the edge is mirrored."""

    def change(subject: Subject, _: Sequence[Subject]) -> Pixels:
        height, width = subject.cleaned.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), 0, factor)
        return np.asarray(
            cv2.warpAffine(
                subject.cleaned, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
            ),
            np.uint8,
        )

    return change


CHANGES: Final[Mapping[str, Change]] = {
    "cells painted out": emptied,
    "cells on another stream's smear": moved,
    "cells on plain glass": on_plain_glass,
    "scale bar removed": bar_removed,
    "scale bar added": bar_added,
    "scale bar in another style": bar_restyled,
    "stain of another day": restained,
    "light +12 %": exposed(1.12),
    "light −15 %": exposed(0.85),
    "JPEG quality 60": compressed(60),
    "JPEG quality 40": compressed(40),
    "blur, 0.3 % of the width": blurred(0.003),
    "cells 20 % larger": magnified(1.2),
    "cells 20 % smaller": magnified(0.8),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the fields that one change could be made to. Each array is (N,) bool."""

    files: NDArray[np.str_]
    groups: NDArray[np.str_]
    unchanged: NDArray[np.bool_]
    """the call is the one it was before; None stays None"""
    flagged: NDArray[np.bool_]
    """any flag, or no call at all"""
    silent_error: NDArray[np.bool_]
    """benign/ALL wrong and not flagged"""

    def as_json(self) -> dict[str, Any]:
        """Shares of the fields; `intervals`: low and high of each, 95 %, from resampling groups."""
        shares = {
            "unchanged": self.unchanged,
            "unchanged_or_flagged": self.unchanged | self.flagged,
            "flagged": self.flagged,
            "silent_errors": self.silent_error,
        }
        return {
            "fields": len(self.files),
            **{name: float(values.mean()) for name, values in shares.items()},
            "intervals": {name: share_interval(values, self.groups) for name, values in shares.items()},
        }


def join_outcomes(parts: Sequence[Outcome]) -> Outcome:
    """The same change, made with several folds' models."""
    return Outcome(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in Outcome.__slots__})


def subjects(classifier: Classifier, fields: Sequence[LabelledField], progress: Progress = silent) -> list[Subject]:
    """Read the fields and ask the model of each as it is."""
    parameters = classifier.model.configuration.segmentation
    found: list[Subject] = []
    for start in range(0, len(fields), _BATCH):
        part = fields[start : start + _BATCH]
        images = [_read(field, parameters.working_side) for field in part]
        prepared = [_prepared(classifier, image) for image in images]
        for field, pixels, ready, assessment in zip(part, images, prepared, classifier.classify(prepared), strict=True):
            found.append(
                Subject(
                    field=field,
                    pixels=pixels,
                    cleaned=without_overlays(pixels, find_overlays(pixels, parameters.overlays)),
                    nuclei=ready.segmentation.nuclei,
                    parameters=parameters,
                    assessment=assessment,
                )
            )
        progress("fields as they are", len(found), len(fields))
    return found


def _read(field: LabelledField, side: int) -> Pixels:
    """At the scale at which leukocytes are looked for: nuclei and pixels lie over each other."""
    pixels = read_pixels(field, side).pixels
    height, width = pixels.shape[:2]
    shrink = max(height, width) / side
    if shrink <= 1:
        return pixels
    return np.asarray(cv2.resize(pixels, (round(width / shrink), round(height / shrink)), interpolation=cv2.INTER_AREA))


def intervene(
    classifier: Classifier, changed: Sequence[Subject], others: Sequence[Subject], progress: Progress = silent
) -> dict[str, Outcome]:
    """Make every change to every subject, and ask the model again; `others` lend their smears."""
    outcomes: dict[str, Outcome] = {}
    for name, change in CHANGES.items():
        with ThreadPoolExecutor(2) as pool:
            images = list(pool.map(partial(_change, change, others), changed))
        kept = [(subject, image) for subject, image in zip(changed, images, strict=True) if image is not None]
        found = list(assess(classifier, [image for _, image in kept], progress, name))
        if kept:
            outcomes[name] = _outcome([subject for subject, _ in kept], found)
    return outcomes


def _change(change: Change, others: Sequence[Subject], subject: Subject) -> Pixels | None:
    return change(subject, others)


def _outcome(changed: Sequence[Subject], found: Sequence[Assessment]) -> Outcome:
    unassessed = np.array([each.call is None for each in found], bool)
    suspect = np.array([each.call not in (None, "benign") for each in found], bool)
    truth = np.array([subject.field.label > 0 for subject in changed], bool)
    flagged = np.array([bool(each.flags) for each in found], bool) | unassessed
    return Outcome(
        files=np.array([subject.field.file for subject in changed]),
        groups=np.array([subject.field.group for subject in changed]),
        unchanged=np.array([new.call == old.assessment.call for new, old in zip(found, changed, strict=True)], bool),
        flagged=flagged,
        silent_error=(suspect != truth) & ~flagged,
    )


def remove_suspects(
    classifier: Classifier, changed: Sequence[Subject], progress: Progress = silent
) -> dict[str, dict[str, float | int]]:
    """Whether the leukocytes' suspicions explain the calls: paint out some of them, and leave some.

    Of fields called suspect with at least four leukocytes: the half that is least and the half that is most suspicious;
    and, where some but not all count as suspects, these, and as many drawn at random. Of each way how many fields,
    their mean suspicion and log-odds of suspect against benign before and after, and the shares that are called benign
    and that are not called at all then.
    """
    rule = classifier.model.configuration.leukocyte
    chosen = [
        subject
        for subject in changed
        if subject.assessment.call not in (None, "benign") and len(subject.assessment.suspicions) >= _LEAST_CELLS
    ]
    results: dict[str, dict[str, float | int]] = {}
    for name, choose in REMOVALS.items():
        gone = [choose(subject, np.array(subject.assessment.suspicions), rule) for subject in chosen]
        asked = [
            (subject, which)
            for subject, which in zip(chosen, gone, strict=True)
            if 0 < len(which) < len(subject.assessment.suspicions)
        ]
        results[name] = {"fields": len(asked)}
        if asked:
            before = [subject.assessment for subject, _ in asked]
            images = [_without(subject, which) for subject, which in asked]
            after = list(assess(classifier, images, progress, f"without {name}"))
            results[name] |= {
                "suspicion_before": _suspicion(before),
                "suspicion": _suspicion(after),
                "log_odds_before": _log_odds(before),
                "log_odds": _log_odds(after),
                "benign": float(np.mean([each.call == "benign" for each in after])),
                "no_call": float(np.mean([each.call is None for each in after])),
            }
    return results


_LEAST_CELLS: Final = 4

Removal = Callable[[Subject, NDArray[np.float64], LeukocyteRule], NDArray[np.intp]]


def _suspects(_: Subject, suspicions: NDArray[np.float64], rule: LeukocyteRule) -> NDArray[np.intp]:
    return np.flatnonzero(suspicions >= rule.suspect)


def _as_many(subject: Subject, suspicions: NDArray[np.float64], rule: LeukocyteRule) -> NDArray[np.intp]:
    count = len(_suspects(subject, suspicions, rule))
    return subject.random("as many").permutation(len(suspicions))[:count]


REMOVALS: Final[Mapping[str, Removal]] = {
    "the half least suspicious": lambda _, each, __: np.argsort(each, kind="stable")[: len(each) // 2],
    "the half most suspicious": lambda _, each, __: np.argsort(-each, kind="stable")[: len(each) // 2],
    "all that count as suspects": _suspects,
    "as many drawn at random": _as_many,
}


def _suspicion(found: Sequence[Assessment]) -> float:
    return float(np.mean([each.suspicion for each in found]))


def _log_odds(found: Sequence[Assessment]) -> float:
    """Of suspect against benign, as the network has them, whether anything was called or not."""
    benign = np.clip([each.probabilities[0] for each in found], 1e-12, 1 - 1e-12)
    return float(np.mean(np.log((1 - benign) / benign)))


def _without(subject: Subject, gone: NDArray[np.intp]) -> Pixels:
    hole = cell_mask(np.where(np.isin(subject.nuclei, gone + 1), subject.nuclei, 0))
    return paint_out(subject.cleaned, np.asarray(cv2.dilate(hole, np.ones((5, 5), np.uint8)), np.uint8))


def weighted(parts: Sequence[Mapping[str, Mapping[str, float | int]]]) -> dict[str, dict[str, float | int]]:
    """The results of several folds' `remove_suspects`, each weighing as many fields as it has."""
    found: dict[str, dict[str, float | int]] = {}
    for name in {name for part in parts for name in part}:
        those = [part[name] for part in parts if part.get(name, {}).get("fields")]
        total = sum(int(each["fields"]) for each in those)
        figures = {figure for each in those for figure in each} - {"fields"}
        found[name] = {
            "fields": total,
            **{figure: sum(each[figure] * each["fields"] for each in those) / total for figure in sorted(figures)},
        }
    return {name: found[name] for name in REMOVALS if name in found}


def assess(
    classifier: Classifier, images: Sequence[Pixels], progress: Progress = silent, stage: str = "classifying"
) -> Iterator[Assessment]:
    """What the model says of images RGB (H, W, 3), the whole way."""
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            yield from classifier.classify(list(pool.map(lambda pixels: _prepared(classifier, pixels), part)))
            progress(stage, min(start + _BATCH, len(images)), len(images))


def _prepared(classifier: Classifier, pixels: Pixels) -> PreparedField:
    height, width = pixels.shape[:2]
    return classifier.prepare(Decoded(pixels=pixels, format=ImageFormat.PNG, width=width, height=height))
