"""Where the time goes of a large JPEG field, decoded at reduced scale and whole, and what threefold would ask for.

    python benchmarks/jpeg.py FOLDER [--fields 12] [--repeat 5] [--write]
    python benchmarks/jpeg.py FOLDER --calls 500

Fields of the folder, enlarged to 2592×1944, with a camera's noise and without. One thread, by its own clock; each is
the median of the passes, in which everything is done in turn. `--write` puts the table into docs/benchmarks.md.
`--calls` times nothing and counts: of how many fields, smooth ones, call and number of leukocytes are those of the
field decoded whole, at the scale that is used and at an eighth. They are enlarged here, too: of detail that only
a camera's own fields have it says nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import large, measuring
from benchmarks.scaling.field_kinds import CAMERA, smooth_field
from benchmarks.scaling.measure import noise
from benchmarks.scaling.servers import others_busy

if TYPE_CHECKING:
    from models.classifier import Classifier

BEGIN: Final = "<!-- Where a large JPEG's time goes: written by `python benchmarks/jpeg.py FOLDER --write`. -->"
END: Final = "<!-- End of a large JPEG's time. -->"

_CHECKS: Final = "our checks of the file, and its header"
_RESIZE: Final = "resizing the whole"


def _scale(factor: int) -> str:
    return {1: "decoding: whole", 2: "at a half"}.get(factor, f"at {'an eighth' if factor == 8 else 'a quarter'}")


def profile(files: Sequence[bytes], side: int, repeat: int) -> dict[str, float]:
    """Milliseconds a field of each step, and of both ways as a whole (`reduced`, `whole`)."""
    import cv2

    from imaging import decode as decoding
    from imaging import whole

    cv2.setNumThreads(1)
    most = CAMERA[0] * CAMERA[1]
    small = large.reduced_size(*CAMERA, side)
    pixels = decoding.decode(files[0], max_pixels=most).pixels
    plain = {data: whole.plain_jpeg(data) for data in files}

    def at(factor: int, data: bytes) -> None:
        if whole.jpeg_pixels(plain[data], factor=factor, size=CAMERA) is None:
            raise SystemExit("TurboJPEG is not what decodes here: the profile would be of something else.")

    def resize(_: bytes) -> None:
        cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)

    def decoded(data: bytes, reduce_to: int | None) -> None:
        decoding.decode(data, max_pixels=most, reduce_to=reduce_to)

    steps: dict[str, Callable[[bytes], None]] = {_scale(factor): partial(at, factor) for factor in (8, 4, 2, 1)}
    steps |= {_RESIZE: resize}
    steps |= {"reduced": lambda data: decoded(data, side), "all": lambda data: decoded(data, None)}
    times: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(repeat):
        for name, step in steps.items():
            times[name].append(1000 * large.seconds(step, files) / len(files))
    found = {name: statistics.median(taken) for name, taken in times.items()}
    found["whole"] = found.pop("all") + found[_RESIZE]
    factor = CAMERA[0] // small[0]
    found[_CHECKS] = found["reduced"] - found[_scale(factor)]
    return found


def table(profiles: Mapping[str, Mapping[str, float]]) -> str:
    """Of each kind of files by its name, in Markdown."""

    def line(what: str, value: Callable[[Mapping[str, float]], str]) -> str:
        return f"| {what} | {' | '.join(value(each) for each in profiles.values())} |"

    def least(each: Mapping[str, float]) -> float:
        return each[_CHECKS] + each[_scale(8)]

    lines = [f"| ms a field | {' | '.join(profiles)} |", "|---|" + "---|" * len(profiles)]
    for step in (_CHECKS, *map(_scale, (8, 4, 2, 1)), _RESIZE):
        lines.append(f"| {step} | {' | '.join(f'{each[step]:.1f}' for each in profiles.values())} |")
    lines += [
        line("**decoded at reduced scale**", lambda each: f"**{each['reduced']:.1f}**"),
        line("**decoded whole and resized**", lambda each: f"**{each['whole']:.1f}**"),
        line("times as fast", lambda each: f"{each['whole'] / each['reduced']:.2f}"),
        line("threefold would ask for", lambda each: f"{each['whole'] / 3:.1f}"),
        line("reading all of the compressed data, checked, to an eighth", lambda each: f"{least(each):.1f}"),
    ]
    return "\n".join(lines)


def calls(paths: Sequence[Path], classifier: Classifier) -> Iterator[str]:
    """A line for each scale: of how many smooth fields made of these call and number of leukocytes are those
    of the field decoded whole.
    """
    import cv2

    from imaging.decode import decode

    cv2.setNumThreads(1)
    most = CAMERA[0] * CAMERA[1]
    side = classifier.decode_side
    for least in (side, CAMERA[0] // 8):
        found = large.compared(
            classifier,
            paths,
            lambda source, _: smooth_field(source),
            lambda data, least=least: decode(data, max_pixels=most, reduce_to=least),  # type: ignore[misc]  # of a loop
            lambda data: large.whole_and_resized(data, most, side),
        )
        size = "×".join(map(str, large.reduced_size(*CAMERA, least)))
        yield f"{size}: calls equal of {found.figure.note}; as many leukocytes in {found.counts:,}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of fields")
    parser.add_argument("--fields", type=int, default=12, help="how many of them (default: 12)")
    parser.add_argument("--repeat", type=int, default=5, help="passes, of which the median counts (default: 5)")
    parser.add_argument("--model", help="name or id (default: the active one)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--calls", type=int, help="count equal calls of so many fields instead")
    asked = parser.parse_args(arguments)
    busy = others_busy()
    with measuring.apart() as place:
        from models.artefact import find
        from models.classifier import Classifier

        settings = measuring.settings_of(place)
        classifier = Classifier.load(find(settings, asked.model), settings)
        if asked.calls:
            for line in calls(measuring.images(asked.folder.resolve(), asked.calls), classifier):
                print(line)
            return 0
        side = classifier.decode_side
        profiles = {}
        for name, fields in (("a camera's noise", large.camera_fields), ("smooth", large.smooth_fields)):
            files = list(fields(measuring.images(asked.folder.resolve()), asked.fields))
            weight = statistics.mean(map(len, files)) / 1e6
            profiles[f"{name}, {weight:.2f} MB"] = profile(files, side, asked.repeat)
    where = f"{asked.fields} fields of the folder given, one thread, medians of {asked.repeat}"
    content = f"{where}; {measuring.told(measuring.machine())}.{noise(busy)}\n\n{table(profiles)}"
    measuring.shown(content, write=asked.write, page=measuring.PAGE, marks=(BEGIN, END))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
