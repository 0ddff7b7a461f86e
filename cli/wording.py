"""How batches, slides and models are put into words. "Negative" is never one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from allq.text import duration, plural, printable
from cli.console import upper_percent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from db.history import HistoryEvent
    from db.records import BatchStatus, SlideResult, UncountedFields

SYNTHETIC: Final = "trained on synthetic smears only, not for patients"

SHORT_ID: Final = 12
"""Digits of a model's id that are shown to people; `--json` has all 64."""


def model_words(name: str, identity: str, *, synthetic: bool) -> str:
    """`lite0 (3fa9c1d2e4b5)`, and what must be said of a synthetic model."""
    words = f"{printable(name)} ({identity[:SHORT_ID]})"
    return f"{words}, {SYNTHETIC}" if synthetic else words


def variable_words(unknown: Mapping[str, str | None]) -> str:
    """`ALLQ_HOUSE (ALLQ_HOME?), ALLQ_X`: variables that are no settings, with what was meant perhaps."""
    return ", ".join(printable(name) + (f" ({nearest}?)" if nearest else "") for name, nearest in unknown.items())


BOUND: Final = "≤"
"""Stands before an upper bound where space is short; what it means is printed beneath."""


class CalledSlide(Protocol):
    """What is said of a slide's leukocytes is said of these. `call` is None before there is one."""

    @property
    def call(self) -> str | None:
        """The slide's call."""

    @property
    def leukocytes(self) -> int:
        """Leukocytes in the fields that count."""

    @property
    def suspects(self) -> int:
        """Those of them that are suspect."""

    @property
    def upper_bound(self) -> float | None:
        """The share of suspects that this leaves possible."""


def suspect_words(slide: CalledSlide) -> str:
    """`133 of 410`, or `0 of 410 (≤ 0.8 %)`: `leukocyte_words` in a column that says what is counted."""
    if slide.call is None:
        return "-"
    if not slide.leukocytes:
        return "none to judge"
    words = f"{slide.suspects:,} of {slide.leukocytes:,}"
    if slide.call != "all-suspected" and slide.upper_bound is not None:
        words += f" ({BOUND} {upper_percent(slide.upper_bound)})"
    return words


def leukocyte_words(slide: CalledSlide) -> str:
    """`133 suspect among 410 leukocytes`; unless the slide is suspected, with the upper bound of what that can mean."""
    if slide.call is None:
        return "-"
    if not slide.leukocytes:
        return "none that can be judged"
    words = f"{slide.suspects:,} suspect among {plural(slide.leukocytes, 'leukocyte')}"
    if slide.call != "all-suspected" and slide.upper_bound is not None:
        words += f" (95 % upper bound {upper_percent(slide.upper_bound)})"
    return words


def uncounted_words(found: UncountedFields) -> str:
    """`2 fields (2 novel), 6 suspects in them`: the fields that a slide's call leaves out."""
    why = ", ".join(f"{count:,} {printable(flag)}" for flag, count in found.flags.items())
    return f"{plural(found.fields, 'field')}{f' ({why})' if why else ''}, {plural(found.suspects, 'suspect')} in them"


def call_words(slide: SlideResult) -> str:
    """A slide's call with its confidence, or why it has none yet."""
    if slide.call is None:
        return "waiting" if slide.waiting else "cancelled"
    return slide.call


def state_words(status: BatchStatus) -> str:
    """`640 screened (23 linked to a finding of the same bytes), 7 failed`: the states that a batch's fields are in."""
    known = f" ({status.findings_linked:,} linked to a finding of the same bytes)" if status.findings_linked else ""
    words = [f"{status.screened:,} screened{known}", f"{status.failed:,} failed"]
    if status.waiting:
        words.append(f"{status.waiting:,} waiting")
    if status.cancelled:
        words.append(f"{status.cancelled:,} cancelled")
    return ", ".join(words)


def but_cancelled(fields: int) -> str:
    """`, and 3 fields were cancelled`: added where a batch has no failed field; empty where none was called off."""
    return f", and {plural(fields, 'field was', 'fields were')} cancelled" if fields else ""


def unread_words(unread: int, batch: int) -> str:
    """`2 folders or files could not be read: slides may be missing. See: allq failures 7 --skipped`."""
    return (
        f"{plural(unread, 'folder or file', 'folders or files')} could not be read: slides may be missing. "
        f"See:  allq failures {batch} --skipped"
    )


def pace_words(status: BatchStatus) -> str:
    """`96.3 fields/s, 4 s left`; empty before anything is known."""
    words = []
    if status.fields_per_second is not None:
        words.append(f"{status.fields_per_second:,.1f} fields/s")
    if status.seconds_left is not None and not status.ended:
        words.append(f"{duration(status.seconds_left)} left")
    return ", ".join(words)


_EVENTS: Final[dict[str, str]] = {
    "batch-created": "submitted to the queue {queue}, to be screened with model {model:.12}",
    "batch-submitted": "all of the batch registered: {slides:slide}, {fields:field}, {skipped} left out",
    "batch-reopened": "taken up again: more fields may come",
    "batch-cancelled": "batch cancelled, with {fields:field} waiting",
    "fields-retried": "{fields:failed field} of the batch to be tried again",
    "chunk-recorded": "{screened:field} screened ({linked} by a finding of the same bytes), {failed} failed",
    "chunk-halved": "a worker stopped over these fields ({code}): tried again in halves",
    "field-crashed-worker": "field {field} failed: {code}",
    "field-failed": "field {field} failed: {code}",
    "twins-found": "the same bytes lie in another slide's folder",
    "slide-called": "the model calls the slide {call}: {suspects:,} suspect of {leukocytes:leukocyte}",
    "slide-looked-at": "looked at the slide, called {call}",
    "slide-reviewed": "decided {call} (the model: {machine}), because: {reason}",
    "ledger-began": "the ledger began: what the database had before was digested as it was",
    "ledger-key-rotated": "the key that signs was changed from {from:.16} to {to:.16}",
    "backup-restored": "a backup was restored, and given up what was sealed since, to checkpoint {exported}, because: "
    "{reason}",
}
"""What an event tells a person; the names in braces are those of its body, with a noun where it is a count."""


class _Counted(int):
    """A number that is told with a noun: `{fields:field}` is `1 field` or `3 fields`."""

    def __format__(self, noun: str) -> str:
        return plural(self, noun) if noun.replace(" ", "").isalpha() else super().__format__(noun)


def event_words(event: HistoryEvent) -> str:
    """What an event says of the slide, in a sentence; its body as it is where there is none for its kind."""
    body = dict(event.body)
    more = ""
    if event.own is not None:
        own = {"screened": event.own.screened, "linked": event.own.linked, "failed": event.own.failed}
        if own != {name: body.get(name) for name in own}:
            more = f"; the whole chunk: {body.get('screened')} screened, {body.get('failed')} failed"
        body |= own
    elif event.twins:
        slides = (f"{plural(one.fields, 'field')} also in {one.slide} (batch {one.batch})" for one in event.twins)
        more = f": {', '.join(slides)}"
    elif event.field is not None:
        body["field"] = event.field
    try:
        words = _EVENTS[event.kind].format_map({name: _counted(value) for name, value in body.items()})
    except (KeyError, ValueError, TypeError):
        values = ", ".join(f"{name} {value}" for name, value in event.body.items())
        return printable(f"{event.kind}: {values}" if values else event.kind)
    return printable(words + more)


def _counted(value: Any) -> Any:
    return _Counted(value) if isinstance(value, int) and not isinstance(value, bool) else value


def status_record(status: BatchStatus) -> dict[str, Any]:
    """The JSON object of a batch: the keys that DESIGN.md fixes, then what else is known."""
    return {
        "batch": status.batch,
        "state": status.state,
        "slides": status.slides,
        "fields": status.fields,
        "waiting": status.waiting,
        "screened": status.screened,
        "failed": status.failed,
        "cancelled": status.cancelled,
        "fields_per_second": status.fields_per_second,
        "seconds_left": status.seconds_left,
        "skipped": status.skipped,
        "findings_linked": status.findings_linked,
        "queue": status.queue,
        "root": status.root,
        "note": status.note,
        "operator": status.operator,
        "model": status.model_id,
        "model_name": status.model_name,
        "synthetic": status.synthetic,
        "created_at": status.created_at,
        "started_at": status.started_at,
        "finished_at": status.finished_at,
    }
