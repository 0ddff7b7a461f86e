"""Networks, described once and built twice: as a torch module to train, as an OpenVINO graph to run.

`blueprint` describes a network without any framework; `registry` names the descriptions; `network` builds the
torch module (the only module here that imports torch); `models.engines.openvino` builds the graph.
"""

from models.architectures.registry import blueprint, names

__all__ = ["blueprint", "names"]
