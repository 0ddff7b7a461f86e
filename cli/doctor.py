"""`allq doctor`."""

from __future__ import annotations

from typing import Final

import typer

from cli import options

_WORDS: Final = {True: "ok", False: "failed", None: "-"}


def doctor(json: options.Json = False) -> None:
    """Check the installation and say what to do. Exit code 1 if a check fails.

    Example: allq doctor
    """
    from cli import console
    from cli.session import working_settings
    from worker.health import checks

    failed = 0
    rows = []
    for check in checks(working_settings()):
        failed += check.ok is False
        if json:
            console.emit({"check": check.name, "ok": check.ok, "detail": check.detail, "advice": check.advice})
        else:
            rows.append((check.name, _WORDS[check.ok], check.detail, check.advice or ""))
    if not json:
        console.table(
            [console.fixed("check"), console.fixed("state"), console.words("found"), console.words("what to do")], rows
        )
    if failed:
        console.say(f"{failed} of the checks failed.", style="red")
        raise typer.Exit(1)
