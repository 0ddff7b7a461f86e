"""A long night in a laboratory where everything breaks: is anything lost, doubled, or left waiting?

    python -m benchmarks.soak [--fields 100000] [--seed 1] [--database sqlite] [--json] [--write docs/reliability.md]
    python -m benchmarks.soak --short

Workers are killed and stand still, the broker is restarted and emptied, the database is killed, its disk fills up, the
network is cut, clocks jump, and those who submit are killed, too. What happens when follows from the seed (not to the
millisecond: the machine has its say). In the end every file must have been screened once, under its own bytes, and the
counters, the findings, the slide calls and the ledger must say so; the exit code is 1 otherwise.

Everything is real but the pixels' work: fields are tiny pictures that are read, hashed and decoded, and instead of
segmentation and network a stand-in says how dark they are (tests/standin.py). The lease and the other times are short
(see the first line of the output), so that an hour's breakdowns fit into minutes.

No chunk may wait longer than the stated time with nobody to see to it, and results that come late, when another worker
has the chunk, must be refused: workers are stopped right before they record until one was, each time.

A full disk needs the right to mount, a cut network that to make namespaces: where they are missing, the last lines say
so, and what was not done is not counted as done. What there was no time for any more makes the exit code 2.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from allq.settings import Settings
from benchmarks.soaking.night import Soak
from benchmarks.soaking.programme import FIELDS_PER_SLIDE, LONG, SHORT

_BEGIN: Final = "<!-- soak: begin -->"
_END: Final = "<!-- soak: end -->"


def main() -> int:
    """Run it; the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as with Ctrl-C: what was started is taken away
    options = _options()
    programme = SHORT if options.short else LONG
    if options.fields is not None:
        fields = -(-options.fields // FIELDS_PER_SLIDE) * FIELDS_PER_SLIDE
        share = fields / programme.fields
        happenings = {name: max(1, round(times * share)) for name, times in programme.happenings.items()}
        programme = replace(programme, fields=fields, happenings=happenings, longest=math.inf)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with _folder(options.keep) as folder, ExitStack() as stack:
        soak = Soak(programme, seed=options.seed, database=options.database, folder=folder, stack=stack)
        say(_first_line(options, soak.settings))
        started = time.monotonic()
        came_to_its_end = soak.run(say)
        seconds = time.monotonic() - started
        found = soak.account()
        found |= {
            "seconds": round(seconds),
            "happened": dict(soak.figures.happened),
            "left out": soak.figures.left_out,
            "stated time": round(soak.settings.longest_wait, 1),
            "seed": options.seed,
            "database": options.database,
            "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
        }
    _tell(found, as_json=options.json)
    if options.write is not None:
        _write(options.write, found)
    sound = came_to_its_end and not found["wrong"] and not any(found[name] for name in ("lost", "doubled", "stuck"))
    say("Nothing lost, nothing doubled, nothing stuck." if sound else "NOT SOUND: see above.")
    for name, why in soak.figures.left_out.items():
        say(f"Did not happen: {name} ({why})")
    return 1 if not sound else 2 if soak.figures.too_late else 0


def _first_line(options: argparse.Namespace, settings: Settings) -> str:
    return (
        f"Stand-in for segmentation and network, all else real; {options.database}, seed {options.seed}; "
        f"lease {settings.lease_seconds} s, housekeeping {settings.housekeeping_seconds} s, published again after "
        f"{settings.republish_seconds} s: nothing may wait longer than {settings.longest_wait:.1f} s unattended."
    )


def _tell(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        if isinstance(value, dict):
            for part, number in sorted(value.items()):
                print(f"{name}: {part}: {number}")
        elif isinstance(value, list):
            print(f"{name}: {'; '.join(value) or 'nothing'}")
        else:
            print(f"{name}: {value:,}" if isinstance(value, int) and name != "seed" else f"{name}: {value}")


def _write(page: Path, found: dict[str, Any]) -> None:
    """Put the figures into the page, in the place of those of the same database."""
    before, mark, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    old, end, after = rest.partition(_END)
    if not (mark and end):
        raise SystemExit(f"{page} has no place for the figures: {_BEGIN} … {_END}")
    title = f"**{found['database']}**"
    parts = [part.strip() for part in re.split(r"\n(?=\*\*)", old)]
    kept = [part for part in parts if part.startswith("**") and title not in part]
    happened = "; ".join(f"{name} {times} ×" for name, times in sorted(found["happened"].items()))
    left_out = "; ".join(f"{name} ({why})" for name, why in found["left out"].items()) or "nothing"
    shown = {name: value for name, value in found.items() if not isinstance(value, dict | list)}
    shown = {name: value for name, value in shown.items() if name not in {"database", "date", "machine", "seed"}}
    lines = [f"{title}, {found['date']}, {found['machine']}, seed {found['seed']}. What happened: {happened}."]
    lines += [f"Left out: {left_out}. Wrong: {'; '.join(found['wrong']) or 'nothing'}.", ""]
    lines += ["| figure | |", "|---|---:|", *(f"| {name} | {value:,} |" for name, value in shown.items())]
    text = "\n\n".join([*kept, "\n".join(lines)])
    page.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}", encoding="utf-8")


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="allq-soak-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a minute's worth, as the tests run it")
    parser.add_argument("--fields", type=int, help="as many fields, and breakdowns in proportion")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--keep", type=Path, help="folder, not there yet, in which logs and files stay")
    parser.add_argument("--write", type=Path, help="page in which the figures are to stand, between its two marks")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
