"""What a million fields cost, at prices that are assumptions: every one of them can be changed on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from benchmarks.scaling import model
from benchmarks.scaling.constants import Constants
from benchmarks.scaling.model import Demand, Installation


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """Euros, without tax, as assumed on 2026-11-24: of the order of European clouds' public lists, nobody's offer.

    `worker_core_hour`: a core of a general-purpose instance (8 cores, 16 to 32 GiB), on demand. `database_core_hour`
    a managed PostgreSQL's, 4 to 16 GiB a core, with its stand-by. `broker_hour` a small managed Valkey. `ssd_gb_month`
    the database's volume. `object_gb_month` object storage, standard class, and `object_thousand_reads` its requests.
    `gb_out` a gigabyte that leaves the region.
    """

    worker_core_hour: float = 0.045
    database_core_hour: float = 0.20
    broker_hour: float = 0.05
    ssd_gb_month: float = 0.12
    object_gb_month: float = 0.022
    object_thousand_reads: float = 0.0004
    gb_out: float = 0.08

    def changed(self, values: Mapping[str, float]) -> Prices:
        """The same with other prices. ValueError names one that there isn't."""
        known = [field.name for field in fields(self)]
        for name in values:
            if name not in known:
                raise ValueError(f"There is no price {name!r}; the prices are {', '.join(known)}.")
        return replace(self, **values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """Euros per million fields. `images` is for keeping the files a year, which most do anyway: not in the total."""

    workers: float
    database: float
    broker: float
    rows: float
    reads: float
    images: float

    @property
    def total(self) -> float:
        """All but the images."""
        return self.workers + self.database + self.broker + self.rows + self.reads


def bill(constants: Constants, demand: Demand, installation: Installation, prices: Prices, *, months: float) -> Bill:
    """Euros per million fields of `demand`; rows and images are kept for so many `months`.

    Workers are paid by the hour that they work, at the installation's `target` (of what is rented so much is used);
    database and broker are there all day, however little comes.
    """
    millions = demand.fields_per_day / 1e6
    core_hours = 1e6 * model.occupancy(constants, demand, installation) / 3600 / installation.target
    size = model.field_bytes(constants, demand.kind)
    shards = installation.shards
    return Bill(
        workers=core_hours * prices.worker_core_hour,
        database=shards * installation.database_cores * 24 * prices.database_core_hour / millions,
        broker=shards * 24 * prices.broker_hour / millions,
        rows=model.row_bytes(constants, demand.kind) * 1e6 / 1e9 * prices.ssd_gb_month * months,
        reads=1000 * prices.object_thousand_reads,
        images=size * 1e6 / 1e9 * prices.object_gb_month * months,
    )
