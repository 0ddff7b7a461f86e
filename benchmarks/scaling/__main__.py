"""The command line: `python -m benchmarks.scaling --help`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from allq.errors import AllqError
from benchmarks.scaling import __doc__ as purpose
from benchmarks.scaling import report
from benchmarks.scaling.constants import FILE, Constant, Constants
from benchmarks.scaling.model import AS_IT_IS, DEMANDS, Installation
from benchmarks.scaling.prices import Prices

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for. Returns the exit code."""
    asked = _parser().parse_args(arguments)
    for name in [name for name in os.environ if name.startswith("ALLQ_")]:
        del os.environ[name]  # an installation's own are never touched
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # as in a worker
    try:
        code: int = asked.do(asked)
    except (AllqError, ValueError, LookupError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _measure(asked: argparse.Namespace) -> int:
    from benchmarks.scaling.measure import PARTS, measure

    path = asked.output or FILE
    known = Constants.load(path) if path.exists() else Constants({})
    found: dict[str, Constant] = {}
    share = 0.1 if asked.quick else 1.0
    parts = [part for part in PARTS if part in asked.only] if asked.only else PARTS
    for some in measure(asked.slides, known, fields=asked.fields, repeat=asked.repeat, share=share, parts=parts):
        found |= some
        known.merged(found).save(path)  # after each part: what is measured is kept if the next is interrupted
    if asked.json:
        print(json.dumps({name: asdict(each) for name, each in sorted(found.items())}, ensure_ascii=False))
    else:
        print(report.constants_table(Constants(found)))
    print(
        f"written to {path}; `python -m benchmarks.scaling simulate --write` brings the page up to date",
        file=sys.stderr,
    )
    return 0


def _simulate(asked: argparse.Namespace) -> int:
    given = Prices().changed(_values(asked.price))
    as_it_is = _with(AS_IT_IS, _values(asked.set))
    demands = [replace(demand, kind=asked.fields) for demand in DEMANDS]
    tables = report.all_tables(
        Constants.load(asked.constants), given, demands=demands, as_it_is=as_it_is, months=asked.months
    )
    if asked.write:
        if asked.price or asked.set or asked.fields != "5mp" or asked.months != 12 or asked.constants != FILE:
            raise ValueError("--write puts the usual assumptions into the page: leave out the other options.")
        report.write(tables)
        print(f"written to {report.PAGE}", file=sys.stderr)
    elif asked.json:
        print(json.dumps(tables, ensure_ascii=False))
    else:
        for name, content in tables.items():
            print(f"\n## {name}\n\n{content}")
    return 0


def _check(asked: argparse.Namespace) -> int:
    from allq import logging as allq_logging
    from allq.settings import load
    from benchmarks.scaling.check import CASES, SAID, check, checks_table, differences, quiet_line

    allq_logging.configure(load(_env_file=None, log_level="warning"))
    if (line := quiet_line()) is not None:
        print(line, file=sys.stderr)
    cases = [CASES[number - 1] for number in asked.only] if asked.only else CASES
    found = []
    for each in check(
        Constants.load(), asked.slides, fields=asked.fields, chunk_fields=asked.chunk_fields, cases=cases
    ):
        found.append(each)
        print(f"  predicted {each.predicted:.1f} fields/s, measured {each.real.rate:.1f}", file=sys.stderr, flush=True)
    if asked.json:
        print(json.dumps([asdict(each) for each in found], ensure_ascii=False))
        return 0
    content = checks_table(found)
    print(content)
    if asked.write:
        from benchmarks.measuring import machine

        known = machine()
        fields = {each.case.kind: each.real.fields for each in found}
        runs = " and ".join(f"{count} {SAID[kind]} fields" for kind, count in fields.items())
        where = f"{known['date']}, {known['processor']}, {known['cores']} cores, {runs} a run, "
        noise = f" † {line[0].upper()}{line[1:]}." if line else ""
        cut = f"chunks of {asked.chunk_fields} at the most, cut as `submit` cuts them"
        parts = (f"{where}{cut}.{noise}", content, differences(found))
        report.write({"checks": "\n\n".join(part for part in parts if part)})
    return 0


def _folder(path: str) -> Path:
    return Path(path).resolve()


def _values(pairs: Sequence[str]) -> dict[str, float]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise ValueError(f"{pair!r} is no name=number, e.g. worker_core_hour=0.03.") from None
        if not equals or found[name] < 0:
            raise ValueError(f"{pair!r} is no name=number, e.g. worker_core_hour=0.03.")
    return found


def _with(installation: Installation, values: dict[str, float]) -> Installation:
    known = {name: type(value) for name, value in asdict(installation).items() if name != "name"}
    for name in values:
        if name not in known:
            raise ValueError(f"An installation has no {name!r}; it has {', '.join(known)}.")
    changes: dict[str, Any] = {name: known[name](value) for name, value in values.items()}
    return replace(installation, **changes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=purpose, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    measure = commands.add_parser("measure", help="measures every constant again (some three minutes)")
    measure.add_argument("--slides", type=_folder, help="a folder of slides with small fields (default: synthetic)")
    measure.add_argument("--fields", type=int, default=512, help="synthetic fields to make (default: 512)")
    measure.add_argument("--repeat", type=int, default=3)
    measure.add_argument(
        "--only",
        action="append",
        choices=["pixels", "camera", "worker", "database", "broker"],
        help="only this; repeatable (camera: what is other with fields of 2592×1944, half a minute)",
    )
    measure.add_argument(
        "--quick", action="store_true", help="a tenth of the rows: shows that it works, measures badly"
    )
    measure.add_argument("--output", type=Path, help=f"default: {FILE.name} beside this module")
    measure.add_argument("--json", action="store_true")
    measure.set_defaults(do=_measure)

    simulate = commands.add_parser(
        "simulate",
        help="prints the tables of docs/scaling.md",
        epilog="example: python -m benchmarks.scaling simulate --price worker_core_hour=0.03 --set storage_gbit=10",
    )
    simulate.add_argument("--fields", choices=["5mp", "small"], default="5mp", help="a camera's fields, or small ones")
    simulate.add_argument("--months", type=float, default=12, help="how long rows are kept (default: 12)")
    simulate.add_argument("--price", action="append", default=[], metavar="NAME=EUROS", help="another price")
    simulate.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="of the installation")
    simulate.add_argument("--constants", type=Path, default=FILE, help="another file of constants")
    simulate.add_argument("--write", action="store_true", help="puts the tables into docs/scaling.md")
    simulate.add_argument("--json", action="store_true")
    simulate.set_defaults(do=_simulate)

    check = commands.add_parser("check", help="runs real workers beside what was predicted (some four minutes)")
    check.add_argument("--slides", type=_folder, help="a folder of slides with small fields (default: synthetic)")
    check.add_argument("--fields", type=int, default=640, help="synthetic fields to make (default: 640)")
    check.add_argument("--chunk-fields", type=int, default=64, help="fields of a chunk (default: 64)")
    check.add_argument("--only", type=int, action="append", metavar="N", help="only the Nth run (1 to 7); repeatable")
    check.add_argument("--write", action="store_true", help="puts the table into docs/scaling.md")
    check.add_argument("--json", action="store_true")
    check.set_defaults(do=_check)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
