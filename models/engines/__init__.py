"""What runs a network. Each engine takes uint8 fields and gives a NetworkOutput, so that none differs to its caller."""

from models.engines.base import Engine, NetworkOutput
from models.engines.choose import start

__all__ = ["Engine", "NetworkOutput", "start"]
