"""The torch module of an architecture."""

from __future__ import annotations

from models.architectures.network import FieldNetwork, Network
from models.architectures.registry import blueprint, has_blueprint, seen_by


def make_network(name: str, classes: int, *, eight_bit: bool = False) -> FieldNetwork:
    """The architecture of that name, with weights drawn at random; `eight_bit`: in the form that screens.

    Raises ModelError for an unknown name.
    """
    if has_blueprint(name):
        return Network(blueprint(name), classes, eight_bit=eight_bit)
    from models.architectures.two_channel import TwoChannelDenseNet201  # noqa: PLC0415  # torchvision is slow to import

    described = seen_by(name)
    return TwoChannelDenseNet201(described.mean, described.deviation, classes)
