"""What runs a network. Each engine takes uint8 fields and gives a NetworkOutput, so that none differs to its caller."""

import sys

from models.engines.base import Engine, NetworkOutput, join, on_card
from models.engines.choose import start, uses_card

__all__ = ["Engine", "NetworkOutput", "join", "on_card", "start", "uses_card"]

# `import openvino` alone sends an event through openvino-telemetry, from a forked process, and writes a client id into
# ~/intel. A hospital's machine must never call home. OpenVINO falls back on a stub when that package can't be imported,
# which None in its place makes sure of (docs.python.org/3/reference/import.html#the-module-cache). It stands here as
# this package is loaded before its module that imports OpenVINO; nothing above does.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
