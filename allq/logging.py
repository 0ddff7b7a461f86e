"""Logs for operators: ids and codes, never names of slides or people. To stderr, as text or JSON lines."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from allq.settings import Settings
from allq.text import printable, without_rows


def _on_its_own_line(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Leave nothing in an entry that could pass for another one, move a cursor, or repeat a row of the database.

    An entry is one line, but for a traceback, whose lines stay lines.
    """
    for key, value in event.items():
        if key == "exception" and isinstance(value, str):
            event[key] = "\n".join(printable(line) for line in without_rows(value).split("\n"))
        elif isinstance(value, str):
            event[key] = printable(value)
    return event


_PIPELINE: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
    _on_its_own_line,
]


def configure(settings: Settings) -> None:
    """Send every logger of the process, Celery's and SQLAlchemy's included, through one formatter to stderr."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=32)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_PIPELINE,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    structlog.configure(
        processors=[*_PIPELINE, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that takes key=value pairs: `log.info("chunk recorded", chunk=7, screened=256)`."""
    found: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return found
