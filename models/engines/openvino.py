"""OpenVINO on the CPU: the graph is built straight from the blueprint and the named weights.

So no torch is imported to screen, and nothing is converted or cached: there is nothing that worker processes could race
for. Import OpenVINO only from here: its package reports its use over the network unless it is kept from doing so, as
`models.engines` does.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from allq.errors import ModelDamaged
from models.architectures.blueprint import Block, Blueprint, Convolution, same_padding
from models.architectures.registry import blueprint
from models.artefact import Arrays, Model
from models.engines.base import NetworkOutput, Pixels, join

Precision = Literal["bf16", "f32"]
Node = Any

_SMALL: Final = 4
"""A batch cut short runs in the smallest compiled shape that holds it: this many, or the full batch."""


class OpenVinoEngine:
    """One compiled network per batch size, each at a fixed shape, so that no call ever compiles anew."""

    def __init__(self, model: Model, *, batch: int, threads: int, precision: Precision = "f32") -> None:
        core = ov.Core()
        # Said aloud: by itself OpenVINO takes bf16 where the CPU has it (docs/decisions/0002).
        self.precision: Precision = precision
        configuration = model.configuration
        arrays = model.arrays()
        described = blueprint(configuration.architecture)
        self._side = configuration.input_size
        self._compiled = {}
        for size in sorted({min(_SMALL, batch), batch}):
            try:
                graph = build(
                    described,
                    arrays,
                    shape=(size, self._side, self._side, 3),
                    mean=configuration.mean,
                    deviation=configuration.deviation,
                )
            except KeyError as error:
                raise ModelDamaged(f"The weights of model {model.name} lack {error}; install it again.") from None
            self._compiled[size] = core.compile_model(
                graph,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": self.precision,
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": 1,
                    # Several worker processes share the machine; pinned, they would all sit on the first cores.
                    "ENABLE_CPU_PINNING": False,
                },
            ).create_infer_request()

    @property
    def name(self) -> str:
        """`openvino-cpu-` and the precision."""
        return f"openvino-cpu-{self.precision}"

    def run(self, cells: Pixels, fields: Pixels) -> NetworkOutput:
        """Leukocytes on glass and whole fields, RGB uint8 (N, S, S, 3) each, N ≥ 1.

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

    def _run_filled(self, cells: Pixels, fields: Pixels, size: int) -> NetworkOutput:
        count = len(cells)
        if count < size:
            cells, fields = (_filled(view, size) for view in (cells, fields))
        results = self._compiled[size].infer(
            [np.ascontiguousarray(cells), np.ascontiguousarray(fields)], share_inputs=True
        )
        return NetworkOutput(
            logits=results["logits"][:count].copy(),
            embeddings=results["embeddings"][:count].copy(),
            class_maps=results["class_maps"][:count].copy(),
            views=results["views"][:count].copy(),
        )


def _filled(view: Pixels, size: int) -> Pixels:
    filled = np.zeros((size, *view.shape[1:]), np.uint8)
    filled[: len(view)] = view
    return filled


def build(
    described: Blueprint,
    arrays: Arrays,
    *,
    shape: tuple[int, int, int, int],
    mean: tuple[float, float, float],
    deviation: tuple[float, float, float],
) -> ov.Model:
    """The network as a graph from two views, uint8 (N, S, S, 3) each, to the parts of a NetworkOutput, float32.

    Normalisations are folded into the convolutions before them. Raises KeyError when a weight is missing.
    """
    cells, fields = (op.parameter(shape, ov.Type.u8, name=name) for name in ("cells", "fields"))
    seen, whole = (_scaled(pixels, mean, deviation) for pixels in (cells, fields))
    logits, maps, _ = _trunk(seen, described, arrays, "cells")
    views = [logits]
    if described.two_views:
        more, more_maps, embedding = _trunk(whole, described, arrays, "field")
        views.append(more)
        half = op.constant(np.float32(0.5))
        logits, maps = op.multiply(op.add(logits, more), half), op.multiply(op.add(maps, more_maps), half)
    else:
        embedding = _described(whole, described, arrays, "cells")
    stacked = op.concat([op.unsqueeze(each, op.constant([1])) for each in views], 1)
    results = []
    outputs = {"logits": logits, "embeddings": embedding, "class_maps": maps, "views": stacked}
    for name, result in outputs.items():
        output = op.result(op.convert(result, "f32"))
        output.output(0).get_tensor().set_names({name})
        results.append(output)
    return ov.Model(results, [cells, fields], described.name)


def _trunk(node: Node, described: Blueprint, arrays: Arrays, name: str) -> tuple[Node, Node, Node]:
    """Logits, class maps and embedding of one view."""
    means: list[Node] = []
    for block in described.blocks:
        node = _block(node, block, described.epsilon, arrays, name)
        if block.tapped:
            means.append(_mean(node))
    weight = arrays[f"{name}.classify.weight"].astype(np.float32)
    bias = arrays[f"{name}.classify.bias"].astype(np.float32)
    maps = op.add(_convolve(node, weight[:, :, None, None], stride=1), op.constant(bias.reshape(1, -1, 1, 1)))
    logits = op.add(
        op.matmul(_mean(node), op.constant(weight), transpose_a=False, transpose_b=True), op.constant(bias[None])
    )
    return logits, maps, op.concat(means, 1)


def _described(node: Node, described: Blueprint, arrays: Arrays, name: str) -> Node:
    """The embedding of one view alone."""
    means: list[Node] = []
    for block in described.first_blocks:
        node = _block(node, block, described.epsilon, arrays, name)
        if block.tapped:
            means.append(_mean(node))
    return op.concat(means, 1)


def _scaled(pixels: Node, mean: tuple[float, float, float], deviation: tuple[float, float, float]) -> Node:
    scaled = op.divide(
        op.subtract(op.convert(pixels, "f32"), op.constant(np.array(mean, np.float32))),
        op.constant(np.array(deviation, np.float32)),
    )
    return op.transpose(scaled, op.constant([0, 3, 1, 2]))


def _block(node: Node, block: Block, epsilon: float, arrays: Arrays, trunk: str) -> Node:
    result = node
    for convolution in block.convolutions:
        result = _convolution(result, convolution, f"{trunk}.blocks.{block.name}.{convolution.name}", epsilon, arrays)
    return op.add(result, node) if block.residual else result


def _convolution(node: Node, described: Convolution, name: str, epsilon: float, arrays: Arrays) -> Node:
    gain, shift, mean, variance = (
        arrays[f"{name}.norm.{leaf}"].astype(np.float64) for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gain / np.sqrt(variance + epsilon)
    weight = arrays[f"{name}.conv.weight"].astype(np.float64) * scale[:, None, None, None]
    if described.groups > 1:
        weight = weight.reshape(described.groups, -1, *weight.shape[1:])
    result = _convolve(node, weight.astype(np.float32), stride=described.stride, grouped=described.groups > 1)
    result = op.add(result, op.constant((shift - mean * scale).astype(np.float32).reshape(1, -1, 1, 1)))
    return op.clamp(result, 0.0, 6.0) if described.active else result


def _convolve(node: Node, weight: NDArray[np.float32], *, stride: int, grouped: bool = False) -> Node:
    kernel = weight.shape[-1]
    height, width = (int(size) for size in list(node.output(0).get_shape())[2:])
    (top, bottom), (left, right) = same_padding(height, kernel, stride), same_padding(width, kernel, stride)
    convolve = op.group_convolution if grouped else op.convolution
    return convolve(node, op.constant(weight), [stride, stride], [top, left], [bottom, right], [1, 1])


def _mean(node: Node) -> Node:
    return op.reduce_mean(node, op.constant([2, 3]), keep_dims=False)
