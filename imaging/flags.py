"""The names of what the look of a field says, apart from what measures it: for those who only show them."""

from __future__ import annotations

from typing import Final

BLURRED: Final = "blurred"
BADLY_EXPOSED: Final = "badly-exposed"
