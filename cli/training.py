"""`allq train` and `allq evaluate`: making models, and measuring what they are worth."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from allq.errors import UsageError
from cli import options

if TYPE_CHECKING:
    from models.report import Report


class ProtocolOption(Enum):
    """What is held out."""

    RANDOM = "random"
    GROUP = "group"
    STREAM = "stream"
    FOLDER = "folder"


Data = Annotated[
    Path,
    typer.Argument(metavar="DATA", help="Folder of labelled images: a subfolder per class.", show_default=False),
]
Groups = Annotated[
    Path | None,
    typer.Option(
        "--groups", help="CSV: file, group, stream. What must not straddle a split. Default: groups.csv in DATA."
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads for the network. Default: one per core.")
]
Architecture = Annotated[str | None, typer.Option("--architecture", help="Name of the network's architecture.")]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the data.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything that is random.")]
Calibration = Annotated[
    Path | None,
    typer.Option("--calibration", help="Work folder of an evaluation by group; its held-out fields calibrate."),
]


def train(
    data: Data,
    *,
    name: Annotated[str, typer.Option("--name", help="What the model will be called.")] = "field-model",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Default: models/NAME in ALLQ_HOME.")
    ] = None,
    architecture: Architecture = None,
    epochs: Epochs = None,
    groups: Groups = None,
    calibration: Calibration = None,
    seed: Seed = 0,
    threads: Threads = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Mark it as a model that knows rendered smears only.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Train a model on labelled images and pack it with its card.

    It is calibrated on fields that were kept from training.

    Interrupted, it goes on from its last checkpoint when started again.

    Example: allq train ./labelled --name our-model --epochs 8
    """
    from allq.text import command
    from cli import console
    from cli.progress import meter
    from cli.session import working_settings
    from models.options import TrainOptions
    from models.train import train as train_model

    found = working_settings()
    chosen = _given(architecture=architecture, epochs=epochs)
    asked = TrainOptions(
        name=name,
        groups=groups,
        calibration=calibration,
        seed=seed,
        threads=threads,
        synthetic=synthetic,
        **chosen,
    )
    with meter() as shown:
        model = train_model(data, out or found.home / "models" / name, asked, shown.stage)
    console.say(f"Model {model.name} ({model.id[:12]}) is in {console.cell(model.path)}.")
    console.offer("Screen with it", command("allq", "screen", "./slides", "--model", model.name))
    if json:
        console.emit(
            {"model": model.id, "model_name": model.name, "synthetic": synthetic, "path": str(model.path)}
            | {"metrics": dict(model.configuration.metrics)}
        )


def evaluate(
    data: Data,
    *,
    protocol: Annotated[
        ProtocolOption,
        typer.Option("--protocol", help="What is held out; `folder` measures a finished model and trains nothing."),
    ] = ProtocolOption.GROUP,
    model: options.Model = None,
    folds: Annotated[int, typer.Option("--folds", min=2, help="For random and group.")] = 5,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="STREAM", help="For stream: leave out this one alone. May be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Write the report there as well.")
    ] = None,
    architecture: Architecture = None,
    epochs: Epochs = None,
    groups: Groups = None,
    calibration: Calibration = None,
    work: Annotated[
        Path | None,
        typer.Option("--work", help="Checkpoints and held-out outputs. Default: allq-evaluation, here."),
    ] = None,
    interventions: Annotated[
        bool,
        typer.Option(
            help="Also change the fields (leukocytes painted out, other smears, stains, focus) and ask again: slower."
        ),
    ] = True,
    seed: Seed = 0,
    threads: Threads = None,
    json: options.Json = False,
) -> None:
    """Measure a model, or a way of training one, with intervals.

    By random split, by group, with each stream left out, or a finished model on a labelled folder.
    `random` leaks where images overlap; `group` is honest about this laboratory, `stream` about a new one.

    Example: allq evaluate ./labelled --protocol folder --model lite0-three-views
    """
    from cli import console
    from cli.progress import meter
    from cli.session import chosen_model, working_settings
    from models.evaluate import evaluate as evaluate_model
    from models.options import EvaluateOptions, TrainOptions

    found = working_settings()
    if protocol is ProtocolOption.FOLDER:
        model = chosen_model(found, model).id
    elif model is not None:
        raise UsageError("A finished model is measured with --protocol folder; the others train models of their own.")
    asked = EvaluateOptions(
        protocol=protocol.value,
        model=model,
        folds=folds,
        seed=seed,
        groups=groups,
        work=work,
        only=tuple(only or ()),
        interventions=interventions,
        training=TrainOptions(
            threads=threads,
            seed=seed,
            calibration=calibration,
            **_given(architecture=architecture, epochs=epochs),
        ),
    )
    with meter() as shown:
        report = evaluate_model(data, asked, shown.stage, settings=found)
    if out is not None:
        _write(report, out)
        console.say(f"The report is in {console.cell(out)}.")
    if json:
        console.emit(report.as_json())
    else:
        console.markdown(report.as_markdown())


def _write(report: Report, folder: Path) -> None:
    from json import dumps

    from review.export import new_file

    folder.mkdir(parents=True, exist_ok=True)
    with new_file(folder / "report.md") as stream:
        stream.write(report.as_markdown().encode())
    with new_file(folder / "report.json") as stream:
        stream.write(dumps(report.as_json(), indent=2, ensure_ascii=False).encode() + b"\n")


def _given(**values: Any) -> dict[str, Any]:
    """Leave out what nobody asked for, so that the defaults of the options hold."""
    return {name: value for name, value in values.items() if value is not None}
