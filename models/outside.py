"""What a model says of images that it can't know: other laboratories' smears, other tissue, rendered smears."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from allq.errors import FieldError
from imaging.decode import Decoded, decode
from imaging.formats import HEAD_BYTES, ImageFormat, sniff
from imaging.synthetic import STYLES, render_field
from models.architectures.network import Network
from models.classifier import Assessment, Classifier
from models.data import MAX_PIXELS, load_pixels, read_labelled
from models.flags import NOVEL
from models.novelty import fit_novelty
from models.options import Progress, TrainOptions, silent
from models.train import look_through, novelty_rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What became of the images of one source."""

    source: str
    images: int
    novel: int
    flagged: int
    """with any flag, novel or not"""
    least_novelty: float
    median_novelty: float


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


def left_out_streams(network: Network, data: Path, options: TrainOptions, progress: Progress = silent) -> str:
    """How much of each stream is novel to statistics made without it, as a Markdown table; "" without streams.

    Exact for a network whose novelty is read from frozen blocks: they are the same whatever it was trained on.
    """
    fields = read_labelled(data, options.groups)
    streams = np.array([field.stream for field in fields])
    groups = np.array([field.group for field in fields])
    if len(set(streams.tolist()) - {""}) < 2:
        return ""
    pixels = load_pixels(fields, progress=progress)
    embeddings = look_through(network, pixels, options.input_size, progress, "streams left out").embeddings
    rule = novelty_rule(options)
    lines = ["| look left out | fields | flagged novel |", "|---|---|---|"]
    for stream in np.unique(streams):
        inside = streams == stream
        novelty, threshold = fit_novelty(
            embeddings[~inside],
            groups[~inside].tolist(),
            dimensions=rule.dimensions,
            neighbours=rule.neighbours,
            share=rule.share,
        )
        novel = int((novelty.score(embeddings[inside]) > threshold).sum())
        lines.append(f"| {stream} | {inside.sum()} | {_share(novel, int(inside.sum()))} |")
    return "\n".join(lines) + "\n"


def as_markdown(found: Sequence[Outside], *, threshold: float) -> str:
    """A table; `threshold` is that of the flag `novel`."""
    lines = [
        f"| images | number | flagged novel | flagged at all | least and median novelty (threshold {threshold:.2f}) |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.source} | {each.images} | {_share(each.novel, each.images)} | {_share(each.flagged, each.images)} "
        f"| {each.least_novelty:.2f}, {each.median_novelty:.2f} |"
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
    novelty = np.array([each.novelty for each in assessments] or [np.nan])
    return Outside(
        source=source,
        images=len(assessments),
        novel=sum(NOVEL in each.flags for each in assessments),
        flagged=sum(bool(each.flags) for each in assessments),
        least_novelty=float(novelty.min()),
        median_novelty=float(np.median(novelty)),
    )
