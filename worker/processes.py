"""How many processes a worker has: one for each core, or one for each card."""

from __future__ import annotations

from dataclasses import dataclass

from allq.cores import cores
from allq.settings import Settings
from models.engines import uses_card
from worker import cards


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """What a worker on this machine starts."""

    count: int
    on_card: bool
    cards: tuple[str, ...]
    """as CUDA_VISIBLE_DEVICES names them; empty without any, and where the driver doesn't say"""
    not_followed: str | None
    """one sentence, where another number was asked for than there will be"""


def planned(settings: Settings, *, concurrency: int | None = None) -> Processes:
    """The processes of `allq worker --concurrency`: so many on cores, but one a card where models run on cards."""
    if not uses_card(settings):
        return Processes(count=concurrency or cores(), on_card=False, cards=(), not_followed=None)
    found = tuple(cards.visible())
    count = max(1, len(found))
    sentence = None
    if concurrency is not None and concurrency != count:
        sentence = (
            f"--concurrency {concurrency} is not followed: models run on a card here, one process on each, which makes "
            f"{count}; ALLQ_DEVICE=cpu makes them run on the cores."
        )
    return Processes(count=count, on_card=True, cards=found, not_followed=sentence)
