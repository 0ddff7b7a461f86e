"""What takes checkpoints further than the file of one machine: syslog, a command, a URL (docs/ledger.md).

A hook that fails is tried again from the same checkpoint in the next round, and keeps nobody from sealing.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from sqlalchemy import Connection

from allq.logging import logger
from allq.text import is_utf8
from db import checkpoints
from db.checkpoints import Checkpoint
from db.lines import canonical
from db.statements import run

log = logger(__name__)

HOOK_SECONDS: Final = 20
"""How long one hook may take for one checkpoint."""

ROUND_SECONDS: Final = 5.0
"""After so long, what a hook has not had yet waits for the next round: a worker does nothing else meanwhile, and a hook
that is added to an old ledger, or was away for long, gets thousands."""

_AS_IT_IS: Final = "/%:@!$&'()*+,;=~?"
"""What of a URL is not escaped, besides letters and digits."""

_MAY_NOT_READ: Final = frozenset({401, 403, 405})


class AnotherLiesThere(OSError):
    """An object store has something else under the name of a checkpoint."""


class _Deliveries:
    """The last checkpoint that each hook has had: in a file, and where that can't be kept, in this process's memory.

    A process that starts anew has no such memory: it hands over once more what the file lacks.
    """

    _unkept: ClassVar[dict[Path, dict[str, int]]] = {}
    """What the files lack, by file."""
    _warned: ClassVar[set[Path]] = set()

    def __init__(self, file: Path) -> None:
        self._file = file

    def last(self, hook: str) -> int | None:
        """The number of the last one, 0 for none; None where that isn't known."""
        unkept = self._unkept.get(self._file, {})
        try:
            sent = _read_sent(self._file)
        except OSError as error:
            self._warn(error)
            return unkept.get(_label(hook))
        if unkept:
            self._keep(unkept)
        else:
            self._warned.discard(self._file)
        label = _label(hook)
        return max(sent.get(hook, 0), sent.get(label, 0), unkept.get(label, 0))

    def keep(self, hook: str, number: int) -> None:
        """Note one that a hook has had."""
        self._keep({**self._unkept.get(self._file, {}), _label(hook): number}, instead_of=hook)

    def _keep(self, had: dict[str, int], *, instead_of: str = "") -> None:
        try:
            sent = _read_sent(self._file)
            if instead_of not in had:
                sent.pop(instead_of, None)  # an earlier version kept it with whatever secret is in it
            sent |= {hook: max(sent.get(hook, 0), number) for hook, number in had.items()}
            unfinished = self._file.with_suffix(".new")
            unfinished.write_text(canonical(sent), "utf-8")
            unfinished.replace(self._file)
        except OSError as error:
            self._unkept[self._file] = had
            self._warn(error)
            return
        self._unkept.pop(self._file, None)
        self._warned.discard(self._file)

    def _warn(self, error: OSError) -> None:
        """Once, until it has been kept again."""
        if self._file in self._warned:
            return
        self._warned.add(self._file)
        log.warning(
            "what hooks have had can't be kept: put right that this user may read and write the file and its folder, "
            "and that the disk has room; until then a process that starts anew may hand over checkpoints once more",
            file=str(self._file),
            problem=str(error),
        )


def deliver(conn: Connection, file: Path, hook: str) -> None:
    """Hand a hook what it has not had yet. What fails is logged and tried again next time, from the same checkpoint.

    `file` is that of the exported checkpoints, beside which it is kept what each hook has had.
    """
    until = time.monotonic() + ROUND_SECONDS
    deliveries = _Deliveries(file.with_name("delivered.json"))
    if (last := deliveries.last(hook)) is None:
        return
    for checkpoint, _ in checkpoints.after(conn, last):
        try:
            _hand_over(hook, checkpoint)
        except (OSError, http.client.HTTPException, subprocess.SubprocessError, ValueError) as error:
            problem = {"checkpoint": checkpoint.number, "problem": str(error)}
            log.warning("a checkpoint was not handed on", hook=shown(hook), **problem)
            return
        deliveries.keep(hook, checkpoint.number)
        if time.monotonic() >= until:
            return


def shortcomings(conn: Connection, file: Path, hooks: Iterable[str], *, newest: int, seconds: float) -> Iterator[str]:
    """What is wrong with hooks, a sentence each.

    They should have had what was sealed more than `seconds` ago, up to the checkpoint `newest`: the last of `file`.
    """
    deliveries = _Deliveries(file.with_name("delivered.json"))
    statement = "SELECT count(*) FROM checkpoint WHERE number > :had AND number <= :newest AND sealed_at < {ago}"
    for hook in hooks:
        if hook.startswith("/") and not (Path(hook).is_file() and os.access(hook, os.X_OK)):
            yield f"{hook} is no command that this account may run"
        elif (had := deliveries.last(hook)) is None:
            yield f"what {shown(hook)} has had can't be read"
        elif lacks := run(conn, statement, {"had": had, "newest": newest, "seconds": seconds}).scalar_one():
            yield f"{shown(hook)} lacks {lacks:,} of the checkpoints in the file, from the one after {had:,} on"


def shown(hook: str) -> str:
    """A hook as logs and people see it: a URL without what may be secret in it."""
    if hook == "syslog" or hook.startswith("/"):
        return hook
    parts = urlsplit(hook)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _label(hook: str) -> str:
    """A hook as it is told from others in a file: without secrets, but with a hash where these make the difference."""
    if shown(hook) == hook:
        return hook
    parts = urlsplit(hook)
    told = hashlib.sha256(f"{parts.username or ''}@{shown(hook)}?{parts.query}".encode()).hexdigest()
    return f"{shown(hook)} {told[:16]}"


def _read_sent(memory: Path) -> dict[str, int]:
    """The last checkpoint that each hook has had; without what is no such number, whoever has written it."""
    try:
        found = json.loads(memory.read_text("utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        hook: number
        for hook, number in found.items()
        if is_utf8(hook) and type(number) is int and 0 <= number < 1 << 63
    }


def _hand_over(hook: str, checkpoint: Checkpoint) -> None:
    line = canonical(checkpoint.as_json())
    if hook == "syslog":
        import syslog  # noqa: PLC0415 - absent on Windows

        syslog.openlog("allq", 0, syslog.LOG_AUTHPRIV)
        syslog.syslog(syslog.LOG_NOTICE, line)
    elif hook.startswith("/"):
        subprocess.run([hook], input=line.encode() + b"\n", timeout=HOOK_SECONDS, check=True, stdout=subprocess.DEVNULL)
    else:
        _put(hook, checkpoint, line.encode())


def _put(hook: str, checkpoint: Checkpoint, line: bytes) -> None:
    """An object of its own for each checkpoint of each ledger.

    An object store that honours If-None-Match (S3's do) refuses a second one of that name, and is asked what it has.
    AnotherLiesThere when that is not this checkpoint.
    """
    request = _request(hook, checkpoint)
    request.method, request.data = "PUT", line
    request.add_header("Content-Type", "application/json")
    request.add_header("If-None-Match", "*")
    try:
        _answer(request).close()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 412:
            raise
        _compare(hook, checkpoint, line)


_UNREAD: Final[set[str]] = set()
"""Hooks of which it was said that what they have can't be read."""


def _compare(hook: str, checkpoint: Checkpoint, line: bytes) -> None:
    try:
        with _answer(_request(hook, checkpoint)) as answer:
            there = answer.read(len(line) + 2)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code not in _MAY_NOT_READ:
            raise
        if hook not in _UNREAD:
            _UNREAD.add(hook)
            log.warning(
                "a checkpoint lies there already, and whether it is the same can't be told: this hook may not read",
                hook=shown(hook),
                checkpoint=checkpoint.number,
                problem=str(error),
            )
        return
    if there.strip() != line:
        raise AnotherLiesThere(
            f"Another checkpoint {checkpoint.number} of {checkpoint.origin} lies there already: run `allq audit "
            "verify`, and compare it with the file of exported checkpoints."
        )


def _answer(request: urllib.request.Request) -> Any:
    return urllib.request.urlopen(request, timeout=HOOK_SECONDS)  # noqa: S310 - settings allow http and https only


def _request(hook: str, checkpoint: Checkpoint) -> urllib.request.Request:
    """Of the object of a checkpoint: its name follows the URL's path; the query, and who asks, stay as they are."""
    parts = urlsplit(hook)
    path = f"{parts.path.rstrip('/')}/{checkpoint.origin}/{checkpoint.number:012}.json"
    place = quote(path, safe=_AS_IT_IS), quote(parts.query, safe=_AS_IT_IS)
    url = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], *place, ""))
    request = urllib.request.Request(url)  # noqa: S310 - settings allow http and https only
    if parts.username is not None:
        who = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(who.encode()).decode()}")
    return request
