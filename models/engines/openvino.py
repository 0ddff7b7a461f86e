"""OpenVINO on the CPU: the graph is built straight from the blueprint and the named weights.

So no torch is imported to screen, and nothing is converted or cached: there is nothing that worker processes could race
for. Import OpenVINO only from here: its package reports its use over the network unless it is kept from doing so, as
`models.engines` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from allq.errors import ModelDamaged
from models.architectures.blueprint import (
    LEAST_LEVEL,
    MOST_WEIGHT,
    RELU6_STEP,
    Block,
    Blueprint,
    Convolution,
    InputSizes,
    same_padding,
)
from models.architectures.registry import blueprint
from models.artefact import Arrays, Model
from models.engines.base import NetworkOutput, Pixels, join

Node = Any
Scale = tuple[float, float, float]

_SMALL: Final = 4
"""A batch cut short runs in the smallest compiled shape that holds it: this many, or the full batch."""


class OpenVinoEngine:
    """One compiled network per batch size, each at a fixed shape, so that no call ever compiles anew."""

    def __init__(self, model: Model, *, batch: int, threads: int, levels: Levels | None = None) -> None:
        """`levels` None: in integers, unless the processor can't add them up."""
        core = process_core()
        configuration = model.configuration
        arrays = model.arrays()
        described = blueprint(configuration.architecture)
        self._views = described.views
        self._levels = levels or (IN_SINGLE if saturates(core) else IN_INTEGERS)
        self._compiled = {}
        for size in sorted({min(_SMALL, batch), batch}):
            try:
                graph = build(
                    described,
                    arrays,
                    batch=size,
                    sizes=configuration.input_sizes,
                    mean=configuration.mean,
                    deviation=configuration.deviation,
                    levels=self._levels,
                )
            except KeyError as error:
                raise ModelDamaged(f"The weights of model {model.name} lack {error}; install it again.") from None
            self._compiled[size] = compiled(core, graph, threads, self._levels.rest)

    @property
    def name(self) -> str:
        """`openvino-cpu-i8`; `openvino-cpu-f32` where the processor can't add up 8-bit products."""
        return f"openvino-cpu-{self._levels.name}"

    def run(self, cells: Pixels, fields: Pixels) -> NetworkOutput:
        """Leukocytes on glass and whole fields, RGB uint8 (N, S, S, 3), N ≥ 1, S the model's input size of each.

        A batch cut short is filled up with empty fields.
        """
        outputs: list[NetworkOutput] = []
        start = 0
        while start < len(cells):
            left = len(cells) - start
            size = next((size for size in self._compiled if size >= left), max(self._compiled))
            part = slice(start, start + size)
            outputs.append(self._run_filled(cells[part], fields[part], size))
            start += size
        return join(outputs)

    def fewer(self, count: int) -> int:
        """The next smaller of the compiled sizes: a call that is filled up to the same one would take as much."""
        filled = next((size for size in self._compiled if size >= count), max(self._compiled))
        return max((size for size in self._compiled if size < filled), default=0)

    def _run_filled(self, cells: Pixels, fields: Pixels, size: int) -> NetworkOutput:
        count = len(cells)
        if count < size:
            cells, fields = (_filled(view, size) for view in (cells, fields))
        results = self._compiled[size].infer(
            [np.ascontiguousarray(cells), np.ascontiguousarray(fields)], share_inputs=True
        )
        views = np.stack([results[f"{view}.logits"][:count] for view in self._views], axis=1)
        return NetworkOutput(
            logits=views.mean(axis=1),
            embeddings=results["embeddings"][:count].copy(),
            class_maps=tuple(results[f"{view}.class_maps"][:count].copy() for view in self._views),
            views=views,
        )


@cache
def process_core() -> ov.Core:
    """OpenVINO itself: one for the process, and for good.

    Its CPU plugin gives the thread that loads it a stack for signals, and when it goes puts back the one from before.
    Of two that don't go in the reverse order of their coming, the second puts back what the first has freed, and the
    next signal, such as the one to stop, ends the process by a segmentation fault.
    """
    return ov.Core()


def _filled(view: Pixels, size: int) -> Pixels:
    filled = np.zeros((size, *view.shape[1:]), np.uint8)
    filled[: len(view)] = view
    return filled


def compiled(core: ov.Core, graph: ov.Model, threads: int, precision: str = "f32") -> ov.InferRequest:
    """A graph made ready to run on so many threads; `precision` (f32 or bf16) of what isn't in integers."""
    return core.compile_model(
        graph,
        "CPU",
        {
            # Said aloud: by itself OpenVINO takes bf16, where the CPU has it, for all that isn't in integers.
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Several worker processes share the machine; pinned, they would all sit on the first cores.
            "ENABLE_CPU_PINNING": False,
        },
    ).create_infer_request()


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """How values come to lie on the 256 levels of the network."""

    name: str
    round_to: Callable[[Node, np.float32, int], Node]
    """node, step, least level: the nearest of the levels from the least on, times the step"""
    rest: str = "f32"
    """precision of what isn't in integers; another one gives other findings (docs/decisions/0002 and 0007)"""


def _by_fake_quantize(node: Node, step: np.float32, least: int) -> Node:
    low, high = (op.constant(np.full((1, 1, 1, 1), step * level, np.float32)) for level in (least, least + 255))
    return op.fake_quantize(node, low, high, low, high, 256)


def _by_arithmetic(node: Node, step: np.float32, least: int) -> Node:
    level = op.clamp(op.round(op.divide(node, op.constant(step)), "half_to_even"), least, least + 255)
    return op.multiply(level, op.constant(step))


IN_INTEGERS: Final = Levels(name="i8", round_to=_by_fake_quantize)
"""OpenVINO sees the levels, and computes with whole numbers."""

IN_SINGLE: Final = Levels(name="f32", round_to=_by_arithmetic)
"""OpenVINO sees arithmetic like any other, and computes in single precision what comes out as the same levels."""


def saturates(core: ov.Core) -> bool:
    """Whether this processor's sums of 8-bit products overflow, as they did before AVX-VNNI: tried on one such sum."""
    channels, step = 64, np.float32(4)
    image = op.parameter((1, channels, 8, 8), ov.Type.f32)
    weights = np.full((channels, channels, 1, 1), MOST_WEIGHT, np.int8)
    scale = np.full(channels, 0.01, np.float32)
    summed = _convolve(
        _by_fake_quantize(image, np.float32(RELU6_STEP), 0), _whole(weights, scale, 1), stride=1, kernel=1
    )
    graph = ov.Model([op.result(_by_fake_quantize(summed, step, LEAST_LEVEL))], [image], "saturates")
    found = compiled(core, graph, 1).infer([np.full((1, channels, 8, 8), 6, np.float32)])[0]
    return not np.allclose(found, channels * 6 * MOST_WEIGHT * 0.01, atol=step)


def build(
    described: Blueprint,
    arrays: Arrays,
    *,
    batch: int,
    sizes: InputSizes,
    mean: Scale,
    deviation: Scale,
    levels: Levels = IN_INTEGERS,
) -> ov.Model:
    """The network as a graph: two pictures, uint8 (batch, S, S, 3), to the parts of a NetworkOutput, float32.

    Raises KeyError when a weight is missing.
    """
    cells, fields = inputs = [
        op.parameter((batch, side, side, 3), ov.Type.u8, name=name)
        for name, side in (("cells", sizes.cells), ("fields", sizes.field))
    ]
    trunks: dict[str, _Trunk] = {view: _Trunk(arrays, view, levels, described) for view in described.views}
    begun = {"cells": trunks["cells"].first(_scaled(cells, mean, deviation))[0]}
    begun["field"], embedding = trunks.get("field", trunks["cells"]).first(_scaled(fields, mean, deviation))
    begun["look"] = begun["field"]
    outputs: dict[str, Node] = {}
    for view, trunk in trunks.items():
        outputs[f"{view}.logits"], outputs[f"{view}.class_maps"] = trunk.read(begun[view])
    results = []
    for name, result in (outputs | {"embeddings": embedding}).items():
        output = op.result(op.convert(result, "f32"))
        output.output(0).get_tensor().set_names({name})
        results.append(output)
    return ov.Model(results, inputs, described.name)


def _scaled(pixels: Node, mean: Scale, deviation: Scale) -> Node:
    scaled = op.divide(
        op.subtract(op.convert(pixels, "f32"), op.constant(np.array(mean, np.float32))),
        op.constant(np.array(deviation, np.float32)),
    )
    return op.transpose(scaled, op.constant([0, 3, 1, 2]))


@dataclass(frozen=True, slots=True)
class _Trunk:
    """What looks at one view: the weights under `name`."""

    arrays: Arrays
    name: str
    levels: Levels
    described: Blueprint

    def first(self, node: Node) -> tuple[Node, Node]:
        """Pixels to what leaves the first blocks, and the embedding."""
        means: list[Node] = []
        for block in self.described.first_blocks:
            node = self._block(node, block)
            if block.tapped:
                means.append(_mean(node))
        return node, op.concat(means, 1)

    def read(self, node: Node) -> tuple[Node, Node]:
        """What leaves the first blocks to logits and class maps."""
        for block in self.described.later_blocks:
            node = self._block(node, block)
        weight = self.arrays[f"{self.name}.classify.weight"].astype(np.float32)
        bias = self.arrays[f"{self.name}.classify.bias"].astype(np.float32)
        read = _convolve(node, op.constant(weight[:, :, None, None]), stride=1, kernel=1)
        maps = op.add(read, op.constant(bias.reshape(1, -1, 1, 1)))
        logits = op.add(
            op.matmul(_mean(node), op.constant(weight), transpose_a=False, transpose_b=True), op.constant(bias[None])
        )
        return logits, maps

    def _block(self, node: Node, block: Block) -> Node:
        place = f"{self.name}.blocks.{block.name}"
        result = node
        for convolution in block.convolutions:
            result = self._convolution(result, convolution, f"{place}.{convolution.name}")
        if block.residual:
            result = op.add(result, node)
        if block.ends_active:
            return result
        return self.levels.round_to(result, self.arrays[f"{place}.step"].astype(np.float32)[0], LEAST_LEVEL)

    def _convolution(self, node: Node, described: Convolution, place: str) -> Node:
        weights = _whole(self.arrays[f"{place}.weight"], self.arrays[f"{place}.scale"], described.groups)
        result = _convolve(
            node, weights, stride=described.stride, kernel=described.kernel, grouped=described.groups > 1
        )
        result = op.add(result, op.constant(self.arrays[f"{place}.bias"].astype(np.float32).reshape(1, -1, 1, 1)))
        if not described.active:
            return result
        return self.levels.round_to(op.clamp(result, 0.0, 6.0), np.float32(RELU6_STEP), 0)


def _whole(weight: NDArray[np.int8], scale: NDArray[np.floating], groups: int) -> Node:
    """Whole numbers (outputs, inputs / groups, k, k) times a scale (outputs,), in the form that the graph takes."""
    scales = scale.astype(np.float32).reshape(-1, 1, 1, 1)
    if groups > 1:
        weight = weight.reshape(groups, -1, *weight.shape[1:])
        scales = scales.reshape(groups, -1, 1, 1, 1)
    return op.multiply(op.convert(op.constant(weight), "f32"), op.constant(scales))


def _convolve(node: Node, weights: Node, *, stride: int, kernel: int, grouped: bool = False) -> Node:
    height, width = (int(size) for size in list(node.output(0).get_shape())[2:])
    (top, bottom), (left, right) = same_padding(height, kernel, stride), same_padding(width, kernel, stride)
    convolve = op.group_convolution if grouped else op.convolution
    return convolve(node, weights, [stride, stride], [top, left], [bottom, right], [1, 1])


def _mean(node: Node) -> Node:
    return op.reduce_mean(node, op.constant([2, 3]), keep_dims=False)
