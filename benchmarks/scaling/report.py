"""The tables of docs/scaling.md, made from the constants."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.scaling import model, prices
from benchmarks.scaling.constants import Constants
from benchmarks.scaling.model import AS_IT_IS, CHANGED, DEMANDS, Demand, Installation
from benchmarks.scaling.prices import Prices
from benchmarks.scaling.simulation import busiest_hour

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def constants_table(constants: Constants) -> str:
    """Every constant, with what it is and where it comes from."""
    rows = [
        (
            f"`{name}`",
            f"{each.value:,.4g}" if each.value < 1e4 else f"{each.value:,.0f}",
            each.unit,
            each.what,
            each.date + ("" if each.quiet else " †"),
        )
        for name, each in sorted(constants.found.items())
    ]
    return table(("constant", "value", "unit", "what it is", "measured"), rows)


def costs_table(constants: Constants) -> str:
    """Milliseconds of a processor that a field takes, stage by stage, in full chunks; small ones and a camera's."""
    chunk = AS_IT_IS.chunk_fields
    stages = {"read": "read, hash", "decode": "decode", "segment": "segment, check", "classify": "classify"}
    small = {stage: constants[f"{stage}_ms"] for stage in stages}
    large = small | {stage: constants[f"{stage}_ms_5mp"] for stage in model.OTHER_STAGES}
    server = (
        constants["register_cpu_ms_field"]
        + constants["database_cpu_ms_field"]
        + constants["database_cpu_ms_chunk"] / chunk
    )
    more, more_large = (
        constants[name] - sum(alone.values())
        for name, alone in (("worker_cpu_ms", small), ("worker_cpu_ms_5mp", large))
    )
    both = [
        ("PostgreSQL: register, claim, look up, write", server),
        ("Valkey", constants["broker_cpu_us_message"] / 1000 / chunk),
    ]
    rows = [
        *((name, small[stage], large[stage]) for stage, name in stages.items()),
        ("the rest of a worker: SQL, Celery, Python, what the stages cost more together", more, more_large),
        *((name, value, value) for name, value in both),
    ]
    totals = ("**together**", sum(row[1] for row in rows), sum(row[2] for row in rows))
    return table(
        ("ms of a processor, a field", "small", "2592×1944"),
        [(name, f"{one:.3f}", f"{other:.3f}") for name, one, other in (*rows, totals)],
    )


def distance_table(constants: Constants, demand: Demand, installation: Installation) -> str:
    """What a worker does that is so far from its database, by one next door."""
    rows = []
    for milliseconds in (0.1, 0.5, 2.0, 10.0, 50.0):
        row = [f"{milliseconds:g} ms"]
        for sizes in ([installation.chunk_fields], [32], model.chunks(demand, installation)):
            near, far = (
                model.field_seconds(
                    constants, replace(installation, round_trip_ms=each), sizes, demand.kind, demand.slide_fields
                )
                for each in (0.0, milliseconds)
            )
            if len(sizes) == 1:
                row.append(f"{model.round_trips(constants, sizes[0], demand.slide_fields) * milliseconds / 1000:.2f} s")
            row.append(f"{near / far:.0%}")
        rows.append([cell.replace("%", " %") for cell in row])
    full = f"a chunk of {installation.chunk_fields} waits"
    whole = f"does, in submissions of {demand.submission_fields:,}"
    head = ("there and back", full, "does, of one next door", "a chunk of 32 waits", "does", whole)
    return table(head, rows)


def provenance(constants: Constants) -> str:
    """Which commands and machines the constants come from."""
    sources = sorted({(each.by, each.machine) for each in constants.found.values()})
    lines = [f"- `{by}` on {machine}." for by, machine in sources]
    noisy = sum(not each.quiet for each in constants.found.values())
    if noisy:
        lines.append(
            f"- † {noisy} of {len(constants.found)} were measured while other work ran, and are to be measured again."
        )
    return "\n".join(lines)


def demand_table(constants: Constants, demands: Sequence[Demand]) -> str:
    """What comes in at each scale."""
    rows = []
    for demand in demands:
        size = model.field_bytes(constants, demand.kind)
        sql = demand.fields_per_day * model.row_bytes(constants, demand.kind)
        rows.append(
            (
                demand.name,
                f"{demand.fields_per_day:,.0f}",
                f"{demand.rate:,.1f}",
                f"{demand.submission_fields:,}",
                quantity(demand.fields_per_day * size),
                quantity(demand.rate * size) + "/s",
                quantity(sql),
                quantity(365 * sql),
            )
        )
    head = (
        "",
        "fields a day",
        "fields/s, busiest hour",
        "a submission",
        "images a day",
        "busiest hour",
        "rows a day",
        "rows a year",
    )
    return table(head, rows)


def limits_table(constants: Constants, demands: Sequence[Demand], installation: Installation) -> str:
    """What `installation` takes of each demand before a part has nothing left, the lowest first."""
    head = ("what gives out", "with", *(f"{demand.name}: busy" for demand in demands), "at most, fields a day")
    by_part: dict[str, list[str]] = {}
    order: list[tuple[float, str, str]] = []
    for demand in demands:
        for load in model.loads(constants, demand, model.asked_for(constants, demand, installation)):
            by_part.setdefault(load.part, []).append(busy(load.utilisation(demand.rate / installation.shards)))
    reference = demands[1]
    for load in model.loads(constants, reference, model.asked_for(constants, reference, installation)):
        if load.part != "workers" and "a worker machine" not in load.part:
            most = model.most_fields_a_day(constants, reference, installation, load.part)
            order.append((most, load.part, load.where))
    rows = [
        (part, where, *by_part[part], "–" if math.isinf(limit) else millions(limit))
        for limit, part, where in sorted(order)
    ]
    return table(head, rows)


def busy(share: float) -> str:
    """A utilisation, in bold where nothing is left."""
    text = f"{share:,.0%}" if share >= 0.01 else ("< 1 %" if share > 0 else "0 %")
    text = text.replace("%", " %").replace("  ", " ")
    return f"**{text}**" if share >= 0.995 else text


def simulation_table(constants: Constants, cases: Sequence[tuple[Demand, Installation]]) -> str:
    """What the simulation says of the busiest hour."""
    rows = []
    for demand, installation in cases:
        known = model.sized(constants, demand, installation)
        outcome = busiest_hour(constants, demand, installation)
        most = sorted(((share, part) for part, share in outcome.busy.items()), reverse=True)
        done = outcome.rate / outcome.rate_in
        rows.append(
            (
                demand.name,
                installation.name + (f", {installation.shards} shards" if installation.shards > 1 else ""),
                f"{known.workers * installation.shards:,}",
                f"{outcome.rate_in * installation.shards:,.1f}",
                f"{outcome.rate * installation.shards:,.1f}",
                ", ".join(f"{part} {busy(share)}" for share, part in most[:3]),
                "grows without end" if done < 0.9 else seconds(outcome.share(0.5)),
                "" if done < 0.9 else seconds(outcome.share(0.95)),
            )
        )
    head = (
        "",
        "installation",
        "worker processes",
        "fields/s in",
        "fields/s out",
        "busiest parts",
        "submitted to committed, median",
        "95 %",
    )
    return table(head, rows)


def volume_table(constants: Constants, cases: Sequence[tuple[Demand, Installation]]) -> str:
    """How long volumes and memory last."""
    rows = []
    for demand, installation in cases:
        index = constants["index_bytes_finding"] * demand.fields_per_day / installation.shards
        until = installation.database_gib * 2**30 / 2 / index
        waiting = model.waiting_chunks(demand, installation)
        rows.append(
            (
                demand.name,
                installation.name,
                f"{installation.volume_tb:g} TB × {installation.shards}",
                days(model.days_until_full(constants, demand, installation)),
                days(until),
                f"{model.index_reads(constants, demand, installation):.2f}",
                f"{waiting:,.0f}",
                quantity(waiting * constants["broker_memory_message"]),
            )
        )
    head = (
        "",
        "installation",
        "volume",
        "full after",
        "index leaves memory after",
        "reads a finding after a year",
        "chunks waiting, a tenth of a day",
        "in the broker's memory",
    )
    return table(head, rows)


def bill_table(constants: Constants, cases: Sequence[tuple[Demand, Installation]], given: Prices, months: float) -> str:
    """Euros per million fields."""
    rows = []
    for demand, installation in cases:
        found = prices.bill(constants, demand, installation, given, months=months)
        parts = (found.workers, found.database, found.broker, found.rows, found.reads, found.total, found.images)
        rows.append((demand.name, installation.name, *(f"{part:,.2f}" for part in parts)))
    head = (
        "",
        "installation",
        "workers",
        "database",
        "broker",
        "rows kept",
        "object reads",
        "**total**",
        "images kept (not in the total)",
    )
    return table(head, rows)


def price_table(given: Prices) -> str:
    """The prices that were assumed."""
    rows = [(f"`{name}`", f"{getattr(given, name):g}") for name in Prices.__dataclass_fields__]
    return table(("price", "euros"), rows)


def millions(value: float) -> str:
    """A number of fields for people."""
    return f"{value / 1e6:.2g} million" if value < 99.5e6 else f"{value / 1e6:,.0f} million"


def quantity(size: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} PB"


def seconds(value: float) -> str:
    """A time for people."""
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min"


def days(value: float) -> str:
    """Days, or years where they are many."""
    return f"{value:,.1f} days" if value < 10 else f"{value:,.0f} days" if value < 730 else f"{value / 365:,.0f} years"


def all_tables(
    constants: Constants,
    given: Prices,
    *,
    demands: Sequence[Demand] = DEMANDS,
    as_it_is: Installation = AS_IT_IS,
    months: float = 12,
) -> dict[str, str]:
    """Every table by the name of its place in the page."""
    changed = [(demand, CHANGED[demand.name]) for demand in demands]
    before_and_after = [
        case for demand, better in changed for case in dict.fromkeys(((demand, as_it_is), (demand, better)))
    ]
    return {
        "constants": constants_table(constants),
        "provenance": provenance(constants),
        "costs": costs_table(constants),
        "distance": distance_table(constants, demands[0], as_it_is),
        "demands": demand_table(constants, demands),
        "limits": limits_table(constants, demands, as_it_is),
        "simulation": simulation_table(constants, before_and_after),
        "volumes": volume_table(constants, before_and_after),
        "bill": bill_table(constants, changed, given, months),
        "prices": price_table(given),
    }


def _place(name: str) -> re.Pattern[str]:
    return re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)


def write(tables: dict[str, str], page: Path = PAGE) -> None:
    """Put the tables into their places in the page. ValueError names a place that isn't there."""
    whole = page.read_text(encoding="utf-8")
    for name, content in tables.items():
        whole, count = _place(name).subn(_with(content), whole)
        if count != 1:
            raise ValueError(f"{page.name} has no place for the table {name!r}: <!-- {name} --> … <!-- /{name} -->")
    page.write_text(whole, encoding="utf-8")


def read(name: str, page: Path = PAGE) -> str:
    """What stands in a place of the page."""
    found = _place(name).search(page.read_text(encoding="utf-8"))
    return found.group()[len(f"<!-- {name} -->\n") : -len(f"<!-- /{name} -->")].strip() if found else ""


def _with(content: str) -> Callable[[re.Match[str]], str]:
    return lambda found: f"{found.group(1)}{content}\n{found.group(2)}"
