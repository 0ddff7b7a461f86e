"""`make demo`, or `python -m cli.demo [SLIDES]`: the main job from beginning to end, in a folder of its own.

Without SLIDES it renders smears, screens them with the model that knows such smears, and compares what it says with
what was rendered. With SLIDES it screens that folder with the real model. Both keep everything in ./demo.
"""

from __future__ import annotations

import csv
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from allq.classes import CLASSES
from allq.settings import Settings, load
from allq.text import command
from cli.edge import Command

MODEL: Final = "synthetic-smears"
SLIDES: Final = 6
FIELDS: Final = 60
SEED: Final = 20

if TYPE_CHECKING:
    from db.database import Database
    from db.records import FieldResult, SlideResult

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(cls=Command)
def demo(
    slides: Annotated[
        Path | None, typer.Argument(metavar="SLIDES", help="Your own folder of slides, for the real model.")
    ] = None,
) -> None:
    """Screen rendered smears with a model that knows them, or SLIDES with the real one. Keeps everything in ./demo.

    Example: python -m cli.demo ./slides
    """
    folder = Path("demo").resolve()
    own = slides.resolve() if slides is not None else None
    settings = _settings_of_its_own(folder)
    if own is None:
        truth = _rendered(folder)
        code = _screen(settings, folder / "slides", model=MODEL, truth=truth)
    else:
        code = _screen(settings, own, model=None, truth=None)
    _say_what_next(folder, own)
    # A field broken on purpose is part of the show.
    raise typer.Exit(0 if own is None and code == 3 else code)


def _settings_of_its_own(folder: Path) -> Settings:
    """The embedded default in ./demo/home, whatever else is set here: neither variables nor a .env have a say."""
    from allq import logging

    for name in [name for name in os.environ if name.startswith("ALLQ_")]:
        del os.environ[name]
    (folder / "home").mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    settings = load(home=folder / "home")
    logging.configure(settings.model_copy(update={"log_level": "warning"}))
    return settings


def _rendered(folder: Path) -> Path:
    """Render the smears, if that hasn't been done; return the table of what is on them."""
    from cli import console
    from cli.progress import meter
    from imaging.synthetic import write_slides

    slides = folder / "slides"
    truth = folder / "slides-truth.csv"  # written last, so that its presence says that all is there
    if truth.exists():
        console.say("The smears of the last demo are still there: what is known of them is not computed again.")
        return truth
    with meter() as shown:
        total = SLIDES * FIELDS
        truth = write_slides(
            slides,
            slides=SLIDES,
            fields=FIELDS,
            seed=SEED,
            progress=lambda done: shown.stage("Rendering smears", done, total),
        )
    console.say(f"Rendered {SLIDES} slides of {FIELDS} fields each into {console.cell(slides)}.")
    return truth


def _screen(settings: Settings, path: Path, *, model: str | None, truth: Path | None) -> int:
    from cli.screen import report
    from cli.screening import screen_folder
    from cli.session import open_database
    from worker import active

    with open_database(settings) as database:
        with database.read() as connection:
            chosen = active.choose(connection, settings, model)
        done = screen_folder(database, settings, path, model=chosen, note="demo")
        code = report(database, done, path=str(path), json=False, advice=False)
        if truth is not None and not done.interrupted:
            _compare(database, done.status.batch, truth)
    return code


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """What is on a rendered field; `klass` is None for the blank and the corrupt one, where no call can be right."""

    klass: str | None
    leukocytes: int
    note: str


def _compare(database: Database, batch: int, path: Path) -> None:
    from cli import console
    from db import reads

    truth = _read_truth(path)
    with database.read() as connection:
        fields = list(reads.field_results(connection, batch))
        slides = reads.slide_results(connection, batch)
    out = console.output()
    out.print()
    out.print("Compared with what was rendered:")
    console.pairs(
        [
            ("  calls", _calls(fields, truth)),
            ("  slides", _slide_calls(slides, truth)),
            ("  leukocytes", _counts(fields, truth)),
            ("  blank", _blanks(fields, truth)),
            ("  failures", _failures(fields, truth)),
        ]
    )


def _read_truth(path: Path) -> dict[str, Rendered]:
    """What was rendered, by the field's path."""
    with path.open(newline="", encoding="utf-8") as file:
        return {
            f"{row['slide']}/{row['field']}": Rendered(
                klass=row["class"] or None, leukocytes=int(row["leukocytes"]), note=row["note"]
            )
            for row in csv.DictReader(file)
        }


def _calls(fields: list[FieldResult], truth: dict[str, Rendered]) -> str:
    called = [field for field in fields if field.call is not None]
    right = sum(field.call == truth[field.field].klass for field in called)
    unflagged = [field for field in called if field.call != truth[field.field].klass and not field.flags]
    words = f"{right:,} of {len(called):,} fields right"
    return f"{words}; {len(unflagged):,} wrong without a flag" if right < len(called) else words


def _slide_calls(slides: list[SlideResult], truth: dict[str, Rendered]) -> str:
    suspected = {path.partition("/")[0] for path, field in truth.items() if field.klass not in {None, CLASSES[0]}}
    right = sum(slide.call == ("all-suspected" if slide.slide in suspected else "no-suspects-seen") for slide in slides)
    open_ = sum(slide.call == "insufficient" for slide in slides)
    words = f"{right:,} of {len(slides):,} right"
    return f"{words}, {open_:,} left open as insufficient" if open_ else words


def _counts(fields: list[FieldResult], truth: dict[str, Rendered]) -> str:
    seen = [field for field in fields if field.state == "screened"]
    rendered = sum(truth[field.field].leukocytes for field in seen)
    off = sum(abs(field.leukocytes - truth[field.field].leukocytes) for field in seen) / max(len(seen), 1)
    counted = sum(field.leukocytes for field in seen)
    return f"{counted:,} counted, {rendered:,} rendered; a field is off by {off:.2f} on average"


def _failures(fields: list[FieldResult], truth: dict[str, Rendered]) -> str:
    failed = {field.field for field in fields if field.state == "failed"}
    broken = {path for path, field in truth.items() if field.note == "corrupt"}
    words = f"{len(failed & broken):,} of {len(broken):,} broken on purpose found"
    return f"{words}; {len(failed - broken):,} more" if failed - broken else words


def _blanks(fields: list[FieldResult], truth: dict[str, Rendered]) -> str:
    blank = [field for field in fields if truth[field.field].note == "blank"]
    return f"{sum('no-leukocytes' in field.flags for field in blank):,} of {len(blank):,} flagged as without leukocytes"


def _say_what_next(folder: Path, own: Path | None) -> None:
    from cli import console

    out = console.output()
    out.print()
    out.print(f"Everything is kept in {console.cell(folder)}. To look around:")
    out.print(f"  export ALLQ_HOME={command(str(folder / 'home'))}")
    allq = Path(sys.executable).with_name("allq")
    for words in ("results last --level field", "failures last", "query worklist"):
        out.print(f"  {command(str(allq), *words.split())}")
    if own is None:
        out.print("Your own slides, a folder of images each, with the real model:")
        out.print("  make demo SLIDES=path/to/slides")


if __name__ == "__main__":
    app(prog_name="python -m cli.demo")
