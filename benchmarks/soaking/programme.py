"""How much work a night has, and how often what happens in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

FIELDS_PER_SLIDE: Final = 40
SUBMISSION_KILLED: Final = "a submission killed"
SEALER_KILLED: Final = "the sealer killed"
STALLED: Final = "a worker stalled beyond its lease"
LATE: Final = "a worker stalled right before it recorded, until another had its chunk"


@dataclass(frozen=True, kw_only=True, slots=True)
class Programme:
    """How much work there is, and how often what happens."""

    fields: int
    workers: int
    happenings: dict[str, int]
    seconds_per_chunk: float
    patience: float
    """seconds in which something must move"""
    longest: float = math.inf
    """seconds for all of it"""


LONG: Final = Programme(
    fields=100_000,
    workers=4,
    happenings={
        "a process of a pool killed": 110,
        "a worker killed": 110,
        SUBMISSION_KILLED: 20,
        "the broker killed": 10,
        "the broker restarted": 10,
        "the broker emptied": 20,
        "the database killed": 10,
        STALLED: 30,
        LATE: 10,
        "a worker's clock set": 20,
        "the disk full": 3,
        "the network cut": 4,
        SEALER_KILLED: 30,
    },
    seconds_per_chunk=0.15,
    patience=180.0,
)
SHORT: Final = Programme(
    fields=2_400,
    workers=4,
    happenings={
        "a process of a pool killed": 4,
        "a worker killed": 4,
        SUBMISSION_KILLED: 1,
        "the broker killed": 1,
        "the broker restarted": 1,
        "the broker emptied": 2,
        "the database killed": 1,
        STALLED: 2,
        LATE: 1,
        "a worker's clock set": 2,
        "the disk full": 1,
        "the network cut": 1,
        SEALER_KILLED: 3,
    },
    seconds_per_chunk=0.15,
    patience=60.0,
    longest=200.0,  # a test has 300 s: what is stuck is to be said within them
)
