"""A model is a folder: `model.safetensors`, `model.json`, `CARD.md`. Its id is the SHA-256 over the first two.

Nothing here imports torch: models are listed, shown and found by commands that must start quickly.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from allq.errors import ModelDamaged, ModelError, ModelNotFound
from allq.settings import Settings
from imaging.parameters import QualityParameters, SegmentationParameters
from models.architectures.blueprint import InputSizes

SHIPPED: Final = Path(__file__).parent / "weights"
"""The models that come with allq."""

DEFAULT: Final = "lite0-three-views"
"""The model that screens when nobody asks for another."""

WEIGHTS, CONFIGURATION, CARD = "model.safetensors", "model.json", "CARD.md"
FORMAT: Final = 3

MOST_CONFIGURATION: Final = 16 << 20
MOST_WEIGHTS: Final = 2 << 30
"""Bytes of a file of a model; the shipped ones have some kB and 10 MB. What is larger is no model, and is not read."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A reason why a person must look."""

    sentence: str
    threshold: float | None = None
    """where the flag is raised, in the unit that the sentence names; None where there is nothing to set"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeukocyteRule:
    """From class maps to a leukocyte's suspicion: sigmoid(offset + slope × margin).

    The margin is the log-odds of "not benign" in the class maps, averaged over the leukocyte.
    """

    offset: float = 0.0
    slope: float = 1.0
    suspect: float = 0.5
    """suspicion from which on a leukocyte counts as suspect"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoveltyRule:
    """How the distance to the training fields is measured. See `models.novelty`."""

    neighbours: int = 1
    share: float = 0.02
    """of known fields whose group was left out, that score above 1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideRule:
    """When a slide's fields suffice for a call. See `models.aggregate`."""

    minimum_fields: int = 5
    minimum_leukocytes: int = 100
    false_suspect_share: float = 0.05
    """share of a benign slide's fields that may be called suspect by mistake, taken on the safe side"""
    significance: float = 0.001
    """a slide is suspect when so many suspect fields would come by mistake in fewer than this share of benign slides"""
    least_suspicion: float = 0.5
    """and when its fields' mean suspicion is at least this"""
    flag_share: float = 0.1
    """a field's flag becomes the slide's when at least this share of its fields carries it"""
    unassessable: tuple[str, ...] = ("novel", "blurred", "badly-exposed", "no-leukocytes")
    """a field with one of these flags doesn't count towards the call"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What the model was made from."""

    data: str
    fingerprint: str
    """SHA-256 over classes and contents of the images"""
    fields: int
    groups: int
    training: Mapping[str, Any]
    """the options that made it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfiguration:
    """All that turns pixels into findings, apart from the weights."""

    format: int = FORMAT
    name: str
    architecture: str
    classes: tuple[str, ...]
    input_sizes: InputSizes
    rim: float
    """width of the ring around a nucleus that is cut out with it, in radii of the field's median nucleus"""
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    """input = (pixel − mean) / deviation, with pixels 0 to 255"""
    temperature: float
    """logits are divided by this before the softmax"""
    leukocyte: LeukocyteRule
    novelty: NoveltyRule
    slide: SlideRule
    flags: Mapping[str, Flag]
    segmentation: SegmentationParameters
    quality: QualityParameters
    synthetic: bool = False
    """knows rendered smears only: its calls mean nothing on real ones"""
    provenance: Provenance
    metrics: Mapping[str, Any] = field(default_factory=dict)
    code_version: str
    weights_sha256: str

    def as_json(self) -> dict[str, Any]:
        """What stands in model.json."""
        return asdict(self)

    def threshold(self, flag: str) -> float:
        """The threshold of a flag that has one."""
        value = self.flags[flag].threshold
        if value is None:
            raise ModelDamaged(f"Model {self.name} has no threshold for its flag {flag!r}.")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model's folder, read and checked."""

    id: str
    """SHA-256, hex"""
    name: str
    path: Path
    configuration: ModelConfiguration

    def arrays(self) -> Arrays:
        """The weights and statistics by name, as numpy arrays. Raises ModelDamaged.

        The very bytes that are used are the ones whose digest the id was made of: what has been put in their place
        since the folder was read is refused.
        """
        from safetensors import SafetensorError  # noqa: PLC0415  # listing models needs no weights
        from safetensors.numpy import load  # noqa: PLC0415

        path = self.path / WEIGHTS
        try:
            content = _content(path, MOST_WEIGHTS)
            if hashlib.sha256(content).hexdigest() != self.configuration.weights_sha256:
                raise ModelDamaged(f"{path} has changed since the model was found; install the model again.")
            return load(content)
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelDamaged(f"{path} can't be read ({error}); install the model again.") from None


def read(folder: Path) -> Model:
    """The model in `folder`. Raises ModelNotFound where there is none, ModelDamaged where it isn't whole."""
    path = folder / CONFIGURATION
    if not path.is_file():
        raise ModelNotFound(f"{folder} has no {CONFIGURATION}: it is not a model.")
    try:
        content = json.loads(_content(path, MOST_CONFIGURATION))
        found = content.get("format") if isinstance(content, dict) else None
        if isinstance(found, int) and found != FORMAT:
            raise ModelDamaged(
                f"The model in {folder} has format {found}; this allq reads {FORMAT}: install, train or calibrate it "
                "again."
            )
        configuration = _from_json(ModelConfiguration, content)
        described = canonical(configuration)
        digest = _weights_digest(folder / WEIGHTS)
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise ModelDamaged(f"The model in {folder} can't be read ({error}); install it again.") from None
    if digest.hexdigest() != configuration.weights_sha256:
        raise ModelDamaged(f"The weights in {folder} are not those that its {CONFIGURATION} names; install it again.")
    digest.update(described)
    return Model(id=digest.hexdigest(), name=configuration.name, path=folder, configuration=configuration)


def write(folder: Path, configuration: ModelConfiguration, arrays: Arrays, card: str) -> Model:
    """Make a model's folder: whole or not at all. A model that stands there is replaced.

    `configuration.weights_sha256` is filled in from the weights as written.
    """
    from safetensors.numpy import save  # noqa: PLC0415

    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    # Written by ourselves: `save_file` makes it readable for its owner alone, and a service is another user.
    content = save({name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())})
    (beside / WEIGHTS).write_bytes(content)
    configuration = replace(configuration, weights_sha256=_weights_digest(beside / WEIGHTS).hexdigest())
    text = json.dumps(configuration.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
    (beside / CONFIGURATION).write_text(text + "\n", encoding="utf-8")
    (beside / CARD).write_text(card, encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    beside.rename(folder)
    return read(folder)


def available(settings: Settings) -> list[Model]:
    """Every model that can be read: those that come with allq, then `ALLQ_MODELS_DIR`, then `models` in the home.

    A damaged folder is left out here; `find` says what is wrong with it.
    """
    found: list[Model] = []
    for folder in _folders(settings):
        try:
            found.append(read(folder))
        except ModelError:
            continue
    return found


def find(settings: Settings, name_or_id: str | None = None) -> Model:
    """The model of that name, id or beginning of an id (8 characters at least); None: ALLQ_MODEL or the default.

    Where two have the same name the operator's own one comes before the one that comes with allq.
    Raises ModelNotFound and ModelDamaged.
    """
    wanted = name_or_id or settings.model or DEFAULT
    damaged: ModelDamaged | None = None
    models: list[Model] = []
    for folder in _folders(settings):
        try:
            models.append(read(folder))
        except ModelDamaged as error:
            if folder.name == wanted:
                damaged = error
        except ModelNotFound:
            continue
    named = [model for model in models if model.name == wanted]
    if named:
        return named[-1]
    by_id = {model.id: model for model in models if len(wanted) >= 8 and model.id.startswith(wanted.lower())}
    if len(by_id) == 1:
        return by_id.popitem()[1]
    if damaged is not None:
        raise damaged
    known = ", ".join(sorted({model.name for model in models})) or "none"
    raise ModelNotFound(f"There is no model {wanted!r}. Models here: {known}.")


def canonical(configuration: ModelConfiguration) -> bytes:
    """model.json as the id sees it: sorted keys, no spaces, UTF-8."""
    return json.dumps(
        configuration.as_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _folders(settings: Settings) -> Iterator[Path]:
    for parent in (SHIPPED, settings.models_dir, settings.home / "models"):
        if parent is not None and parent.is_dir():
            yield from sorted(folder for folder in parent.iterdir() if (folder / CONFIGURATION).is_file())


def _content(path: Path, most: int) -> bytes:
    """A file whole, unless it is larger than anything of ours: then ValueError, and nothing is read."""
    with path.open("rb") as file:
        content = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else b""
        if not content or len(content) > most:
            raise ValueError(f"it is empty, or larger than {most >> 20} MiB")
    return content


def _weights_digest(path: Path) -> hashlib._Hash:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256")


def _from_json(kind: Any, value: Any) -> Any:
    """Build dataclasses, tuples and mappings out of JSON, as their annotations say. Unknown keys are an error."""
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(value, dict):
            raise TypeError(f"{str(value)[:40]!r} is not what describes a {kind.__name__}")
        hints = typing.get_type_hints(kind)
        unknown = set(value) - {entry.name for entry in fields(kind)}
        if unknown:
            raise ValueError(f"unknown {', '.join(sorted(unknown))}")
        return kind(**{name: _from_json(hints[name], item) for name, item in value.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        inner = arguments[0]
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_from_json(inner, item) for item in value)
        return tuple(_from_json(each, item) for each, item in zip(arguments, value, strict=True))
    if origin in {Mapping, dict} or origin is types.MappingProxyType or kind is Mapping:
        if not isinstance(value, dict):
            raise TypeError(f"{str(value)[:40]!r} is not a set of names and values")
        inner = arguments[1] if arguments else Any
        return {str(key): _from_json(inner, item) for key, item in value.items()}
    if origin in {types.UnionType, typing.Union}:
        if value is None:
            return None
        return _from_json(next(each for each in arguments if each is not type(None)), value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind in {int, str, bool} and type(value) is not kind:
        raise TypeError(f"{str(value)[:40]!r} is not a {kind.__name__}")
    return value
