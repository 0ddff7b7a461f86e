"""Two models side by side, from what stands in their own records: nothing is computed, no image is needed."""

from __future__ import annotations

from typing import Any

from allq.errors import ModelDamaged
from models.artefact import CONFIGURATION, WEIGHTS, Model
from models.report import FIGURES, shown


def record(model: Model) -> dict[str, Any]:
    """What is compared of a model, as JSON has it. `bytes` are those of the weights' file.

    `measured` and a figure are None where the model's record has none. Raises ModelDamaged where it has nonsense there.
    """
    found = model.configuration
    try:
        measured, figures = _measured(found.metrics), _figures(found.metrics.get("figures", {}))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelDamaged(
            f"The metrics in {model.path / CONFIGURATION} can't be read; install the model again."
        ) from None
    return {
        "model": model.id,
        "name": model.name,
        "architecture": found.architecture,
        "synthetic": found.synthetic,
        "input_sizes": {"cells": found.input_sizes.cells, "field": found.input_sizes.field},
        "bytes": (model.path / WEIGHTS).stat().st_size,
        "weights_sha256": found.weights_sha256,
        "made_from": {
            "data": found.provenance.data,
            "fingerprint": found.provenance.fingerprint,
            "fields": found.provenance.fields,
            "groups": found.provenance.groups,
        },
        "calibrated_from": found.provenance.training.get("calibrated from"),
        "code_version": found.code_version,
        "thresholds": {name: flag.threshold for name, flag in found.flags.items() if flag.threshold is not None},
        "suspect_leukocyte": found.leukocyte.suspect,
        "minimum_fields": found.slide.minimum_fields,
        "minimum_leukocytes": found.slide.minimum_leukocytes,
        "false_suspect_share": found.slide.false_suspect_share,
        "measured": measured,
        "figures": figures,
    }


def lines(first: Model, second: Model) -> list[tuple[str, str, str]]:
    """What is compared, a line each: its name, and how it is with either model. Figures come with 95 % intervals."""
    one, other = _lines(record(first)), _lines(record(second))
    return [(name, one.get(name, "–"), other.get(name, "–")) for name in {**one, **other}]


def measured_alike(first: Model, second: Model) -> bool:
    """True where the figures of both come from the same fields, held out in the same way."""
    one, other = record(first), record(second)
    return one["measured"] is not None and all(one[name] == other[name] for name in ("made_from", "measured"))


def _measured(metrics: Any) -> dict[str, Any] | None:
    if "how" not in metrics:
        return None
    return {"how": str(metrics["how"]), "fields": int(metrics["fields"]), "groups": int(metrics["groups"])}


def _figures(told: Any) -> dict[str, dict[str, float | None] | None]:
    def figure(found: Any) -> dict[str, float | None] | None:
        values = {key: found[key] for key in ("value", "low", "high")} if found is not None else None
        return values and {key: None if value is None else float(value) for key, value in values.items()}

    return {name: figure(told.get(name)) for name in FIGURES}


def _lines(found: dict[str, Any]) -> dict[str, str]:
    sizes, made, measured = found["input_sizes"], found["made_from"], found["measured"]
    origin = f"calibrated, from {found['calibrated_from']}, on" if found["calibrated_from"] else "made from"
    return {
        "id": found["model"][:12],
        "architecture": found["architecture"],
        "input": f"leukocytes {sizes['cells']}², field {sizes['field']}² pixels",
        "weights": f"{found['bytes'] / 1e6:.1f} MB, {found['weights_sha256'][:12]}",
        "synthetic": "yes: knows rendered smears only" if found["synthetic"] else "no",
        "origin": f"{origin} {made['fields']:,} fields in {made['groups']:,} groups of {made['data']} "
        f"({made['fingerprint'][:12]}), allq {found['code_version']}",
        **{f"threshold of {name}": f"{value:.4g}" for name, value in found["thresholds"].items()},
        "leukocyte suspect from": f"{found['suspect_leukocyte']:.4g}",
        "slide needs": f"{found['minimum_fields']} fields, {found['minimum_leukocytes']} leukocytes",
        "suspects taken for mistakes": f"{100 * found['false_suspect_share']:.3g} % of a benign slide's fields",
        "measured on": f"{measured['fields']:,} fields in {measured['groups']:,} groups: {measured['how']}"
        if measured
        else "–",
        **{label: _interval(name, found["figures"][name]) for name, label in FIGURES.items()},
    }


def _interval(name: str, figure: dict[str, float | None] | None) -> str:
    if figure is None:
        return "–"
    value, low, high = (shown(name, figure[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} – {high})"
