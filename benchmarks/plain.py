"""A good plain script, to be compared with: the same default network, torch eager, a DataLoader, batches of 64.

    python benchmarks/plain.py FOLDER [--images 512] [--repeat 5] [--processes 2] [--with-levels | --bfloat16] [--json]

What somebody would write who has the model and a folder and needs an answer: a Dataset whose items are decoded,
segmented and cut into the network's two views, a DataLoader with two processes, the network in single precision on as
many threads as there are cores, softmax. No queue, no database, no quality checks, no slide calls.

The network that screens has weights and activations on 256 levels (docs/decisions/0007), and putting them there takes
torch longer than convolving. Who writes a plain script would leave that out: so does this, with the same weights as
ordinary convolutions. `--with-levels` computes what screens; `--bfloat16` rounds to eight bits of mantissa by autocast,
faster where the processor has instructions for it, and with other numbers than those that screen.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import measuring

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.architectures.network import FieldNetwork
    from models.artefact import ModelConfiguration

BATCH = 64


class Fields:
    """The files of a folder as a Dataset: an item is the network's two views of a field, RGB uint8 (S, S, 3)."""

    def __init__(self, paths: Sequence[Path], configuration: ModelConfiguration) -> None:
        self._paths = paths
        self._configuration = configuration

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        from imaging.decode import decode
        from imaging.overlays import without_overlays
        from imaging.segment import segment
        from models.inputs import cells_view, field_view, to_cached

        configuration = self._configuration
        field = decode(self._paths[index].read_bytes(), max_pixels=10**9)
        found = segment(field.pixels, configuration.segmentation)
        square = to_cached(without_overlays(field.pixels), found, rim=configuration.rim)
        return cells_view(square, configuration.input_sizes.cells), field_view(square, configuration.input_sizes.field)


def _one_thread(_: int) -> None:
    import cv2

    cv2.setNumThreads(1)


def without_levels(network: FieldNetwork) -> FieldNetwork:
    """The same weights as ordinary convolutions in single precision, normalisations folded in; nothing is rounded.

    A network that has no levels is returned as it is.
    """
    from typing import cast

    import torch
    from torch import nn

    from models.architectures.blocks import BlockModule
    from models.architectures.eight_bit import EightBitBlock
    from models.architectures.network import Network

    if not isinstance(network, Network):
        return network
    plain = Network(network.described, network.classes)
    for trunk, screening in ((plain.cells, network.cells), (plain.field, network.field), (plain.look, network.look)):
        if trunk is None or screening is None:
            continue
        trunk.classify.load_state_dict(screening.classify.state_dict())
        for name, block in trunk.blocks.items():
            eight = cast("EightBitBlock", screening.blocks[name])
            for part, leveled in zip(cast("BlockModule", block).convolutions(), eight.convolutions(), strict=True):
                with torch.no_grad():
                    part.conv.weight.copy_(leveled.weight.float() * leveled.scale[:, None, None, None])
                part.conv.bias = nn.Parameter(leveled.bias.clone())
                part.add_module("norm", nn.Identity())
    plain.get_buffer("mean").copy_(network.get_buffer("mean"))
    plain.get_buffer("deviation").copy_(network.get_buffer("deviation"))
    return plain.eval()


def rates(
    paths: Sequence[Path], model: str | None, *, levels: bool, bfloat16: bool, repeat: int, processes: int
) -> list[float]:
    """Fields per second of each of `repeat` passes; loading, starting the processes and one batch are not timed."""
    import torch
    from torch.utils.data import DataLoader

    from models.artefact import find
    from models.engines.torch import restore

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    chosen = find(measuring.settings_of(Path.cwd()), model)
    network = restore(chosen.configuration, chosen.arrays())
    if not levels:
        network = without_levels(network)
    loader: DataLoader[tuple[torch.Tensor, torch.Tensor]] = DataLoader(
        Fields(paths, chosen.configuration),  # type: ignore[arg-type]
        batch_size=BATCH,
        num_workers=processes,
        persistent_workers=True,
        worker_init_fn=_one_thread,
    )

    def go_through(at_most: int | None = None) -> list[int]:
        calls: list[int] = []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            for cells, fields in loader:
                output = network(network.scale(cells), network.scale(fields))
                calls += output.logits.float().softmax(1).argmax(1).tolist()
                if at_most is not None and len(calls) >= at_most:
                    break
        return calls

    go_through(BATCH)
    found = []
    for number in range(repeat):
        measuring.say(f"a plain script, pass {number + 1} of {repeat}, {len(paths)} fields")
        began = time.perf_counter()
        count = len(go_through())
        found.append(count / (time.perf_counter() - began))
    return found


def main() -> None:
    """Measure and print."""
    flags = {"--with-levels": "the network that screens", "--bfloat16": "the other one in bfloat16"}
    given = measuring.asked(__doc__, images=512, cores="--processes", flags=flags)
    found = rates(
        measuring.images(given.folder, given.images),
        given.model,
        levels=given.with_levels,
        bfloat16=given.bfloat16,
        repeat=given.repeat,
        processes=given.processes,
    )
    measuring.tell(found, as_json=given.json)


if __name__ == "__main__":
    main()
