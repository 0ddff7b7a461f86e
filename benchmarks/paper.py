"""The dataset paper's way, to be compared with: a two-channel DenseNet201, image by image as in its notebook.

    python benchmarks/paper.py FOLDER [--images 32] [--repeat 5] [--threads 2] [--json]

Each image is read, resized to 224², segmented by the notebook's threshold in HSV, and both pictures go through a
DenseNet201 each, in single precision, one image a call, in one process with as many threads as there are cores. The
weights are drawn at random: they cost the same. After Ghaderzadeh et al., Int J Intell Syst 2022
(doi 10.1002/int.22753); its notebook is Keras, here the network is torch's, in inference mode.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import measuring

if TYPE_CHECKING:
    import cv2

SIDE = 224
HUES = ((168, 40, 40), (180, 255, 255))
"""The notebook's range of the segmented colour, hue of 0 to 180."""


def reader(threads: int) -> Callable[[Path], int]:
    """What calls one image file: the index of a class."""
    import cv2
    import numpy as np
    import torch

    from allq.classes import CLASSES
    from models.architectures.make import make_network
    from models.architectures.registry import TWO_CHANNELS

    torch.set_num_threads(threads)
    network = make_network(TWO_CHANNELS, len(CLASSES)).eval()

    def call(path: Path) -> int:
        original = cv2.resize(_read(path), (SIDE, SIDE))
        mask = cv2.inRange(cv2.cvtColor(original, cv2.COLOR_RGB2HSV), np.array(HUES[0]), np.array(HUES[1]))
        segmented = cv2.bitwise_and(original, original, mask=mask)
        with torch.inference_mode():
            output = network(*(network.scale(torch.from_numpy(view)[None]) for view in (segmented, original)))
            return int(output.logits.softmax(1).argmax())

    return call


def _read(path: Path) -> cv2.typing.MatLike:
    import cv2

    picture = cv2.imread(str(path))
    if picture is None:
        raise SystemExit(f"{path} is no picture that OpenCV can read: leave it out.")
    return picture


def rates(paths: Sequence[Path], *, repeat: int, threads: int) -> list[float]:
    """Fields per second of each of `repeat` passes; loading and the first image are not timed."""
    call = reader(threads)
    call(paths[0])
    found = []
    for number in range(repeat):
        measuring.say(f"the paper's way, pass {number + 1} of {repeat}, {len(paths)} images")
        began = time.perf_counter()
        for path in paths:
            call(path)
        found.append(len(paths) / (time.perf_counter() - began))
    return found


def main() -> None:
    """Measure and print."""
    given = measuring.asked(__doc__, images=32, cores="--threads", model=False)
    found = rates(measuring.images(given.folder, given.images), repeat=given.repeat, threads=given.threads)
    measuring.tell(found, as_json=given.json)


if __name__ == "__main__":
    main()
