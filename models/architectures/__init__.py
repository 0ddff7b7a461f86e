"""Networks, described once and built twice: as a torch module to train, as an OpenVINO graph to run.

`blueprint` describes a network without any framework; `registry` names the architectures; `network` builds a
blueprint's torch module, `models.engines.openvino` its graph. `two_channel` is a torch module without a blueprint;
`make` makes either.
"""

from models.architectures.registry import blueprint, names

__all__ = ["blueprint", "names"]
