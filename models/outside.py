"""What a model says of images that it can't know: other laboratories' smears, other tissue, rendered smears."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from allq.errors import FieldError
from imaging.decode import Decoded, decode
from imaging.formats import HEAD_BYTES, ImageFormat, sniff
from imaging.synthetic import STYLES, render_field
from models.architectures.network import FieldNetwork
from models.artefact import NoveltyRule
from models.classifier import Assessment, Classifier
from models.data import MAX_PIXELS, read_labelled
from models.flags import NOVEL
from models.novelty import fit_novelty
from models.options import Progress, TrainOptions, silent
from models.train import describe
from models.views import view_all


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What became of the images of one source."""

    source: str
    images: int
    novel: int
    flagged: int
    """with any flag, novel or not"""
    novelty: NDArray[np.float64]
    """of each image"""


def look_outside(classifier: Classifier, folder: Path, progress: Progress = silent) -> list[Outside]:
    """Each subfolder of `folder` as one source; what isn't an image or can't be decoded is left out."""
    sources = sorted(path for path in folder.iterdir() if path.is_dir())
    return [_summed(source.name, _assessed(classifier, _decoded(source, classifier), progress)) for source in sources]


def look_at_rendered(classifier: Classifier, *, fields: int, seed: int, progress: Progress = silent) -> list[Outside]:
    """Each style of rendered smears as one source, classes in turn."""
    found: list[Outside] = []
    for name in STYLES:
        random = np.random.default_rng((seed, len(found)))
        rendered = (_rendered(random, name, number, classifier) for number in range(fields))
        found.append(_summed(f"rendered, {name}", _assessed(classifier, rendered, progress)))
    return found


def left_out_streams(network: FieldNetwork, data: Path, options: TrainOptions, progress: Progress = silent) -> str:
    """How much of each stream is novel to statistics made without it, as a Markdown table; "" without streams.

    Nearly exact for a network whose novelty is read from frozen blocks: they are the same whatever it was trained on,
    but for their 256 levels, which fields of all streams have set.
    """
    fields = read_labelled(data, options.groups)
    streams = np.array([field.stream for field in fields])
    groups = np.array([field.group for field in fields])
    sides = np.array([field.label > 0 for field in fields]).astype(int)
    if len(set(streams.tolist()) - {""}) < 2:
        return ""
    embeddings = describe(network, view_all(fields, progress=progress), options, progress)
    rule = NoveltyRule()
    lines = [
        "| look left out | fields | novel if called rightly | if wrongly | by distance alone: rightly; wrongly |",
        "|---|---|---|---|---|",
    ]
    for stream in np.unique(streams):
        inside = streams == stream
        fit = partial(
            fit_novelty,
            embeddings[~inside],
            groups[~inside].tolist(),
            sides[~inside],
            neighbours=rule.neighbours,
            share=rule.share,
        )
        count, shares = int(inside.sum()), []
        for each in (fit(), fit(lean=False)):
            found = each.scores(embeddings[inside]) > 1
            right = np.take_along_axis(found, sides[inside][:, None], axis=1).sum()
            wrong = np.take_along_axis(found, 1 - sides[inside][:, None], axis=1).sum()
            shares.append((_share(int(right), count), _share(int(wrong), count)))
        (rightly, wrongly), alone = shares
        lines.append(f"| {stream} | {count} | {rightly} | {wrongly} | {'; '.join(alone)} |")
    return "\n".join(lines) + "\n"


def as_markdown(found: Sequence[Outside], *, threshold: float) -> str:
    """A table; `threshold` is that of the flag `novel`."""
    lines = [
        f"| images | number | flagged novel | flagged at all | least and median novelty (threshold {threshold:.2f}) |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.source} | {each.images} | {_share(each.novel, each.images)} | {_share(each.flagged, each.images)} "
        f"| {each.novelty.min():.2f}, {np.median(each.novelty):.2f} |"
        for each in found
    ]
    return "\n".join(lines) + "\n"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _decoded(folder: Path, classifier: Classifier) -> Iterator[Decoded]:
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if sniff(content[:HEAD_BYTES]) is None:
            continue
        try:
            yield decode(content, max_pixels=MAX_PIXELS, reduce_to=classifier.decode_side)
        except FieldError:
            continue


def _rendered(random: np.random.Generator, style: str, number: int, classifier: Classifier) -> Decoded:
    classes = classifier.model.configuration.classes
    field = render_field(random, klass=classes[number % len(classes)], style=STYLES[style])
    height, width = field.pixels.shape[:2]
    return Decoded(pixels=field.pixels, format=ImageFormat.PNG, width=width, height=height)


def _assessed(classifier: Classifier, fields: Iterable[Decoded], progress: Progress) -> list[Assessment]:
    assessments: list[Assessment] = []
    for field in fields:
        assessments += classifier.classify([classifier.prepare(field)])
        progress("images from elsewhere", len(assessments), len(assessments))
    return assessments


def _summed(source: str, assessments: Sequence[Assessment]) -> Outside:
    return Outside(
        source=source,
        images=len(assessments),
        novel=sum(NOVEL in each.flags for each in assessments),
        flagged=sum(bool(each.flags) for each in assessments),
        novelty=np.array([each.novelty for each in assessments] or [np.nan]),
    )
