"""`allq models`: the artefacts that can screen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options

if TYPE_CHECKING:
    from models.artefact import Model

app = typer.Typer(no_args_is_help=True, help="The models that can screen.")


@app.callback()
def models() -> None:
    """The models that can screen."""


@app.command("list")
def list_(json: options.Json = False) -> None:
    """List the models: those that come with allq and one's own.

    Example: allq models list
    """
    from allq.errors import ModelError
    from cli import console
    from cli.session import settings
    from models.artefact import available, find

    found = settings()
    try:
        active = find(found).id
    except ModelError as error:
        active = None
        console.say(str(error), style="yellow")
    models = available(found)
    if json:
        for model in models:
            console.emit(
                {
                    "model": model.id,
                    "name": model.name,
                    "architecture": model.configuration.architecture,
                    "synthetic": model.configuration.synthetic,
                    "active": model.id == active,
                    "path": str(model.path),
                }
            )
        return
    console.table(
        [console.name("model"), console.fixed("id"), console.fixed("active"), console.words("remarks")],
        [(model.name, model.id[:12], "yes" if model.id == active else "", _remarks(model)) for model in models],
    )


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
    from cli.session import settings
    from cli.wording import SYNTHETIC
    from models.artefact import CARD, find

    model = find(settings(), name)
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
    from cli import console
    from cli.progress import meter
    from cli.session import working_settings
    from models.recalibrate import recalibrate

    found = working_settings()
    with meter() as shown:
        made = recalibrate(
            data,
            out or found.home / "models" / name,
            name=name,
            settings=found,
            model=model,
            groups=groups,
            progress=shown.stage,
        )
    console.say(f"Model {made.name} ({made.id[:12]}) is in {console.cell(made.path)}.")
    console.say(f"Screen with it:  allq screen ./slides --model {made.name}")
    if json:
        console.emit(
            {"model": made.id, "model_name": made.name, "path": str(made.path)}
            | {"metrics": dict(made.configuration.metrics)}
        )


def _remarks(model: Model) -> str:
    from cli.wording import SYNTHETIC

    return SYNTHETIC if model.configuration.synthetic else model.configuration.architecture
