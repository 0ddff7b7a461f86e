"""`allq models`: the artefacts that can screen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options

if TYPE_CHECKING:
    from allq.settings import Settings
    from db.records import Activation
    from models.artefact import Model

app = typer.Typer(no_args_is_help=True)


@app.callback()
def models() -> None:
    """The models that can screen.

    Example: allq models list
    """


@app.command("list")
def list_(json: options.Json = False) -> None:
    """List the models: those that come with allq and one's own.

    Example: allq models list
    """
    from cli import console
    from cli.session import settings
    from models.artefact import available

    found = settings()
    holds, screening = _default(found)
    models = available(found)
    if json:
        for model in models:
            console.emit(
                {
                    "model": model.id,
                    "name": model.name,
                    "architecture": model.configuration.architecture,
                    "synthetic": model.configuration.synthetic,
                    "active": model.id == screening,
                    "path": str(model.path),
                    **_activated(model, holds),
                }
            )
        return
    console.table(
        [
            console.name("model"),
            console.fixed("id"),
            console.fixed("active"),
            console.words("activated"),
            console.words("remarks"),
        ],
        [
            (
                model.name,
                model.id[:12],
                "yes" if model.id == screening else "",
                f"{console.cell(holds.activated_at)} by {holds.activated_by}"
                if holds is not None and model.id == holds.model_id
                else "",
                _remarks(model),
            )
            for model in models
        ],
        needed=3,
    )


def _default(found: Settings) -> tuple[Activation | None, str | None]:
    """The activation that holds, and the id of the model that screens by default here; says what is wrong with them."""
    from allq.errors import AllqError
    from cli import console
    from cli.session import activation
    from models.artefact import find
    from worker import active

    holds = None
    try:
        holds = activation(found)
    except AllqError as error:
        console.say(console.cell(str(error)), style="yellow")
        if not found.model:
            return None, None
    try:
        model = find(found) if found.model or holds is None else active.activated(found, holds)
    except AllqError as error:
        console.say(console.cell(str(error)), style="yellow")
        return holds, None
    if holds is not None and model.id != holds.model_id:
        names = console.cell(model.name), console.cell(holds.model_name)
        console.say(f"ALLQ_MODEL is set: {names[0]} screens here instead of the active {names[1]}.")
    return holds, model.id


def _activated(model: Model, holds: Activation | None) -> dict[str, Any]:
    """When, by whom and why this model was activated; None where another one, or none, is the database's active one."""
    names = ("activated_at", "activated_by", "reason")
    mine = holds if holds is not None and holds.model_id == model.id else None
    return {name: getattr(mine, name, None) for name in names}


@app.command("show")
def show(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="Name or id. Default: the active one.", autocompletion=options.complete_model
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Show a model's card: what it was trained on, what it can do and what it can't.

    Example: allq models show
    """
    from cli import console
    from cli.session import chosen_model, settings
    from cli.wording import SYNTHETIC
    from models.artefact import CARD

    model = chosen_model(settings(), name)
    if json:
        console.emit({"model": model.id, "path": str(model.path), **model.configuration.as_json()})
        return
    out = console.output()
    console.pairs([("model", model.name), ("id", model.id), ("folder", str(model.path))])
    if model.configuration.synthetic:
        out.print(f"This model was {SYNTHETIC}.", style="bold yellow")
    card = (model.path / CARD).read_text(encoding="utf-8")
    out.print()
    console.markdown(card)


@app.command("compare")
def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="Name or id.", autocompletion=options.complete_model, show_default=False)
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", help="Name or id.", autocompletion=options.complete_model, show_default=False)
    ],
    json: options.Json = False,
) -> None:
    """Show two models side by side: input, size, what they were made of, thresholds, figures with 95 % intervals.

    All of it comes from the models' own records. To measure both on your images: `allq evaluate --protocol folder`.

    Example: allq models compare lite0-three-views our-model
    """
    from cli import console
    from cli.session import settings
    from models import compare as comparison
    from models.artefact import find

    found = settings()
    one, other = find(found, first), find(found, second)
    alike = comparison.measured_alike(one, other)
    if json:
        records = {"first": comparison.record(one), "second": comparison.record(other)}
        console.emit({**records, "measured_alike": alike})
        return
    titles = [console.cell(model.name) for model in (one, other)]
    if one.name == other.name:
        titles = [f"{titles[0]}, A", f"{titles[1]}, B"]
    console.table(
        [console.words("what"), *(console.words(title) for title in titles)], comparison.lines(one, other), needed=3
    )
    if not alike:
        console.say(
            "These figures were not measured on the same fields: they don't tell which model is better. On yours: "
            "allq evaluate DATA --protocol folder --model NAME",
            style="yellow",
        )


@app.command("activate")
def activate(
    name: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Name or id.", autocompletion=options.complete_model, show_default=False),
    ],
    reason: Annotated[
        str | None,
        typer.Option("--reason", "-r", help="Why, in a sentence. It stays on record. A terminal is asked for it."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Make a model the one that screens where nobody asks for another (--model, ALLQ_MODEL).

    It holds for everybody who uses this database. The ledger keeps who activated what, when and why:
    `allq query model_activations`.

    Example: allq models activate our-model --reason "verified on 400 fields"
    """
    from allq.errors import UsageError
    from allq.text import is_utf8, storable
    from cli import console
    from cli.session import open_database, settings
    from cli.wording import SYNTHETIC
    from db import activations
    from models.artefact import SHIPPED, find
    from worker.active import record_of

    if not name:  # a variable of the shell that isn't set must not choose the default
        raise UsageError("Which model? Give its name or id: `allq models list`.")
    found = settings()
    model = find(found, name)
    shown = console.cell(model.name)
    why = _reason(shown, reason)
    with open_database(found) as database, database.begin() as connection:
        before = activations.latest(connection)
        done = activations.activate(
            connection, record_of(model), reason=why if is_utf8(why) else storable(why)[0], actor=found.operator
        )
    instead = f" instead of {console.cell(before.model_name)} ({before.model_id[:12]})" if before else ""
    console.say(f"{done.activated_by} activated {shown} ({model.id[:12]}){instead}.")
    if model.configuration.synthetic:
        console.say(f"Model {shown}: {SYNTHETIC}.", style="yellow")
    if not found.embedded_database and SHIPPED not in model.path.parents:
        console.say("Every machine that submits or screens needs this model's folder in its own (ALLQ_MODELS_DIR).")
    if found.model and find(found).id != model.id:
        console.say("ALLQ_MODEL is set here and names another: unset it to screen with the active one.", style="yellow")
    if json:
        console.emit(
            {
                "activation": done.number,
                "model": done.model_id,
                "model_name": done.model_name,
                "synthetic": model.configuration.synthetic,
                "activated_by": done.activated_by,
                "activated_at": done.activated_at,
                "reason": done.reason,
                "before": before.model_id if before else None,
            }
        )


def _reason(model: str, given: str | None) -> str:
    """The reason given, or what a person answers; UsageError where there is nobody to be asked."""
    import sys

    from allq.errors import UsageError

    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise UsageError("An activation needs a reason: give it with --reason.")
    answer: str = typer.prompt(f"Why is {model} to be the active model?", err=True)
    return answer


@app.command("calibrate")
def calibrate(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Folder of labelled images: a subfolder per class.", show_default=False),
    ],
    *,
    name: Annotated[str, typer.Option("--name", help="What the calibrated model will be called.")],
    model: options.Model = None,
    groups: Annotated[
        Path | None,
        typer.Option("--groups", help="CSV: file, group (slide or patient). Default: groups.csv in DATA."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Default: models/NAME in ALLQ_HOME.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Fit a model to your laboratory's labelled images without training: probabilities, thresholds, what is known.

    The weights stay as they are; the result is a model of its own, with its own card.

    Example: allq models calibrate ./labelled --name our-model
    """
    from allq.text import command, operand
    from cli import console
    from cli.progress import meter
    from cli.session import chosen_model, working_settings
    from models.recalibrate import recalibrate

    found = working_settings()
    with meter() as shown:
        made = recalibrate(
            data,
            out or found.home / "models" / name,
            name=name,
            settings=found,
            model=chosen_model(found, model).id,
            groups=groups,
            progress=shown.stage,
        )
    console.say(f"Model {made.name} ({made.id[:12]}) is in {console.cell(made.path)}.")
    activation = ("allq", "models", "activate", "--reason", "…")
    console.offer("Screen with it", command("allq", "screen", "./slides", "--model", made.name))
    console.offer("Always, for all", command(*activation, *operand(made.name)))
    if json:
        console.emit(
            {"model": made.id, "model_name": made.name, "path": str(made.path)}
            | {"metrics": dict(made.configuration.metrics)}
        )


def _remarks(model: Model) -> str:
    from cli.wording import SYNTHETIC

    return SYNTHETIC if model.configuration.synthetic else model.configuration.architecture
