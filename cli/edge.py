"""The edge at which every error becomes one sentence on stderr and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from allq.errors import AllqError
from allq.text import printable, without_rows

INTERRUPTED: Final = 130

_USAGE_ERROR: Final[type[Any]] = typer.BadParameter.__mro__[1]
"""The parser's own complaints; Typer prints them, with exit code 2."""


class Commands(TyperGroup):
    """A group of commands with the edge around it; `--debug` of the group asks for tracebacks."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the group's own options."""
        with _usage():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with _edge(debug=bool(ctx.params.get("debug"))):
            return super().invoke(ctx)


class Command(TyperCommand):
    """The same for a program that is one command."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read its options."""
        with _usage():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        with _edge(debug=bool(ctx.params.get("debug"))):
            return super().invoke(ctx)


@contextmanager
def _usage() -> Iterator[None]:
    """What the parser repeats of the command line was typed, or pasted, with whatever a name had in it."""
    try:
        yield
    except _USAGE_ERROR as error:
        error.message = printable(error.message)
        raise


@contextmanager
def _edge(*, debug: bool) -> Iterator[None]:
    try:
        with _usage():
            yield
        sys.stdout.flush()
    except (typer.Exit, typer.Abort, _USAGE_ERROR):
        raise
    except BrokenPipeError:
        _close_quietly()
        raise typer.Exit(0) from None  # the reader, `head` perhaps, has all it wanted
    except KeyboardInterrupt:
        _complain("Interrupted. The work done so far is kept.", debug=debug)
        raise typer.Exit(INTERRUPTED) from None
    except AllqError as error:
        _complain(str(error), debug=debug)
        raise typer.Exit(error.exit_code) from None
    except OSError as error:
        _complain(_file_problem(error), debug=debug)
        raise typer.Exit(1) from None
    except Exception as error:  # noqa: BLE001  (the edge: whatever else it is, it is a fault of ours)
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        _complain(f"allq failed unexpectedly ({what}). Run it again with `allq --debug …` to see where.", debug=debug)
        raise typer.Exit(1) from None


def _complain(sentence: str, *, debug: bool) -> None:
    told = f"{without_rows(traceback.format_exc())}\n{sentence}" if debug else sentence
    with suppress(BrokenPipeError):
        typer.echo("\n".join(printable(line) for line in told.splitlines()), err=True)


def _file_problem(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    return f"{what}: {os.fsdecode(error.filename)}" if error.filename is not None else f"{what}."


def _close_quietly() -> None:
    """Point stdout at nothing, so that the interpreter's last flush doesn't complain of the closed pipe."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
