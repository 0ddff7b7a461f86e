"""`python -m models.release DATA`: makes the model that comes with allq, and the reports that its card quotes.

Evaluates by group, trains on all fields with that calibration, and shows the model images from elsewhere; with `--also
stream` and `--also random` evaluates so, too. Stopped and called again it goes on. Needs the Taleqani
images (docs/model.md says where they are from).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from allq.settings import Settings
from models.artefact import CARD, DEFAULT, SHIPPED, Model
from models.card import card
from models.classifier import Classifier
from models.engines.torch import restore
from models.evaluate import evaluate
from models.flags import NOVEL
from models.heldout import HELD_OUT
from models.options import EvaluateOptions, Progress, Protocol, TrainOptions, silent, told
from models.outside import as_markdown, left_out_streams, look_at_rendered, look_outside
from models.report import Report
from models.train import train

OPTIONS: Final = TrainOptions(name=DEFAULT)


def release(
    data: Path,
    out: Path,
    *,
    work: Path,
    reports: Path,
    outside: Path | None,
    training: TrainOptions = OPTIONS,
    progress: Progress = silent,
) -> Model:
    """Write the model to `out` and its evaluation to `reports`. `outside`: a folder of folders of foreign images."""
    report = evaluate(data, EvaluateOptions(protocol="group", work=work, training=training), progress)
    write_report(report, reports, "by-group")
    shutil.copyfile(work / "group-seed0" / HELD_OUT, reports / f"by-group-{HELD_OUT}")
    options = replace(training, calibration=work / "group-seed0", work=work / "final")
    model = train(data, out, options, progress)
    classifier = Classifier.load(model, Settings(home=work))
    found = look_outside(classifier, outside, progress) if outside is not None else []
    found += look_at_rendered(classifier, fields=40, seed=0, progress=progress)
    table = as_markdown(found, threshold=model.configuration.threshold(NOVEL))
    notes = (
        "## Images from elsewhere\n"
        f"The finished model ({classifier.engine_name}) on images that are not of its kind.\n\n{table}\n"
        "## Looks left out\n"
        "How much of each stain and camera the flag `novel` catches when its statistics were made without it.\n\n"
        f"{left_out_streams(restore(model.configuration, model.arrays()), data, options, progress)}"
    )
    (out / CARD).write_text(card(model.configuration, notes), encoding="utf-8")
    return model


def evaluate_further(
    data: Path,
    protocols: Sequence[Protocol],
    *,
    work: Path,
    reports: Path,
    only: tuple[str, ...] = (),
    training: TrainOptions = OPTIONS,
    progress: Progress = silent,
) -> None:
    """The protocols that the model itself doesn't need: streams left out (calibrated by group), random split."""
    calibrated = replace(training, calibration=work / "group-seed0")
    further: tuple[tuple[Protocol, TrainOptions], ...] = (("stream", calibrated), ("random", training))
    for protocol, options in further:
        if protocol not in protocols:
            continue
        asked = EvaluateOptions(
            protocol=protocol, work=work, training=options, only=only if protocol == "stream" else ()
        )
        write_report(evaluate(data, asked, progress), reports, f"by-{protocol}")
        held_out = work / f"{protocol}-seed0" / HELD_OUT
        shutil.copyfile(held_out, reports / f"by-{protocol}-{HELD_OUT}")


def write_report(report: Report, folder: Path, name: str) -> None:
    """`name`.json and `name`.md."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(report.as_json(), indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(content + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(report.as_markdown(), encoding="utf-8")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=SHIPPED / DEFAULT)
    parser.add_argument("--work", type=Path, default=Path("allq-evaluation"))
    parser.add_argument("--reports", type=Path, default=Path("docs/model"))
    parser.add_argument("--outside", type=Path, default=None, help="folder of folders of images from elsewhere")
    parser.add_argument("--also", action="append", choices=("stream", "random"), default=[], help="evaluate so, too")
    parser.add_argument("--only", action="append", default=[], help="for stream: leave out this one alone; repeatable")
    parser.add_argument("--threads", type=int, default=None, help="for the networks; the shipped model: 1")
    given = parser.parse_args()
    progress = told()
    training = replace(OPTIONS, threads=given.threads)
    release(
        given.data,
        given.out,
        work=given.work,
        reports=given.reports,
        outside=given.outside,
        training=training,
        progress=progress,
    )
    evaluate_further(
        given.data,
        given.also,
        work=given.work,
        reports=given.reports,
        only=tuple(given.only),
        training=training,
        progress=progress,
    )


if __name__ == "__main__":
    main()
