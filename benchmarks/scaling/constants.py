"""The measured constants: one file, `constants.json`, with where each of them comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("constants.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """One measured figure. `quiet`: nothing else worked on the machine meanwhile; if not, it is to be done again."""

    value: float
    unit: str
    what: str
    by: str
    machine: str
    date: str
    quiet: bool


class Constants:
    """All constants by name. Reading one that was never measured raises LookupError with what to do."""

    def __init__(self, found: Mapping[str, Constant]) -> None:
        self.found = dict(found)

    def __getitem__(self, name: str) -> float:
        if name not in self.found:
            raise LookupError(f"{name} is not measured yet: run `python -m benchmarks.scaling measure`.")
        return self.found[name].value

    def changed(self, **values: float) -> Constants:
        """The same with other values, to ask "what if"."""
        for name in values:
            self[name]
        return Constants(self.found | {name: replace(self.found[name], value=value) for name, value in values.items()})

    def merged(self, newer: Mapping[str, Constant]) -> Constants:
        """The same, with what was measured anew in place of what was there."""
        return Constants(self.found | dict(newer))

    @classmethod
    def load(cls, path: Path = FILE) -> Constants:
        """Read the file."""
        document: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return cls({name: Constant(**entry) for name, entry in document.items()})

    def save(self, path: Path = FILE) -> None:
        """Write the file, a constant after the other by name."""
        document = {name: asdict(self.found[name]) for name in sorted(self.found)}
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
