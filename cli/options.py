"""Arguments and options that several commands share, with what the shell completes for them."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from allq.errors import AllqError, UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Queue(Enum):
    """The queues of the workers: what is urgent goes through `stat`."""

    ROUTINE = "routine"
    STAT = "stat"


def complete_model(incomplete: str) -> list[str]:
    """Names of the models that can be used."""
    from allq.settings import load
    from models.artefact import available

    try:
        names = {model.name for model in available(load())}
    except AllqError:
        return []
    return sorted(name for name in names if name.startswith(incomplete) and _for_shells(name) == name)


def complete_query(incomplete: str) -> list[tuple[str, str]]:
    """Names of the named queries, each with what it answers."""
    from db import named

    return [(info.name, info.description) for info in named.names() if info.name.startswith(incomplete)]


def complete_batch(incomplete: str) -> list[tuple[str, str]]:
    """`last` and the newest batches, each with its folder."""
    from cli.session import open_database
    from db import reads

    try:
        with open_database() as database, database.read() as connection:
            found = [(str(status.batch), _for_shells(status.root)) for status in reads.batches(connection, limit=20)]
    except AllqError:
        found = []
    return [(text, help_) for text, help_ in [("last", "the newest batch"), *found] if text.startswith(incomplete)]


def _for_shells(name: str) -> str:
    """A name without what means something to a shell: some read what is offered to be completed as a script."""
    return re.sub(r"[^\w ./@%+=,-]", "?", name)


Batch = Annotated[
    str, typer.Argument(metavar="BATCH", help="A batch's number, or `last`.", autocompletion=complete_batch)
]
OptionalBatch = Annotated[
    str | None, typer.Argument(metavar="BATCH", help="A batch's number, or `last`.", autocompletion=complete_batch)
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, a document a line; all else goes to stderr.")]
Model = Annotated[
    str | None,
    typer.Option("--model", help="Name or id of the model. Default: the active one.", autocompletion=complete_model),
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        "--concurrency", "-c", min=1, help="Worker processes. Default: one per core. On cards it is always one each."
    ),
]
QueueOption = Annotated[
    Queue | None, typer.Option("--queue", help="What is urgent goes through `stat`. Default: routine.")
]
Note = Annotated[str | None, typer.Option("--note", help="Anything worth remembering about this batch.")]
Folder = Annotated[
    Path, typer.Argument(metavar="PATH", help="Folder of slides; a slide is a folder of images.", show_default=False)
]


def find_batch(connection: Connection, text: str) -> int:
    """Return the id that a BATCH argument means. Raises UsageError, or NotFound when there is no batch at all."""
    from allq.errors import NotFound
    from db import reads

    if text == "last":
        newest = reads.batches(connection, limit=1)
        if not newest:
            raise NotFound("There is no batch yet. Start one with `allq screen PATH`.")
        return newest[0].batch
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    raise UsageError(f"{text!r} is no batch: give its number, as `allq status` lists it, or `last`.")
