"""Which model screens: the one asked for, else ALLQ_MODEL, else the database's active one, else the one of allq.

A model that was activated and isn't here, or isn't what it was, is refused: another one never takes its place unasked.
"""

from __future__ import annotations

from sqlalchemy import Connection

from allq.errors import ModelDamaged, ModelError, ModelNotFound
from allq.settings import Settings
from allq.text import command, operand
from db import activations
from db.records import Activation, ModelRecord
from models import artefact
from models.artefact import Model


def choose(conn: Connection, settings: Settings, name_or_id: str | None = None) -> Model:
    """The model of that name or id; for None the one that screens by default. Raises ModelNotFound, ModelDamaged."""
    if name_or_id or settings.model:
        return artefact.find(settings, name_or_id)
    activation = activations.latest(conn)
    return artefact.find(settings) if activation is None else activated(settings, activation)


def activated(settings: Settings, activation: Activation) -> Model:
    """The model that was activated: with that very id. Raises ModelNotFound, ModelDamaged with what to do."""
    try:
        model = artefact.find(settings, activation.model_id)
    except ModelNotFound:
        raise _not_here(settings, activation) from None
    if model.id != activation.model_id:  # one whose name is that id
        raise _not_here(settings, activation)
    return model


def _not_here(settings: Settings, activation: Activation) -> ModelError:
    name, short = activation.model_name, activation.model_id[:12]
    try:
        other = artefact.find(settings, name)
    except ModelDamaged as error:
        return ModelDamaged(f"The active model {name} ({short}) can't be used: {error}")
    except ModelNotFound:
        folder = settings.models_dir or settings.home / "models"
        return ModelNotFound(
            f"The active model {name} ({short}, activated by {activation.activated_by}) is not on this machine: "
            f"put its folder into {folder}, or activate another with `allq models activate`."
        )
    return ModelDamaged(
        f"The model {name} on this machine has the id {other.id[:12]}, and {activation.activated_by} activated "
        f"{short}: put that one's folder back, or activate this one with "
        f"`{command('allq', 'models', 'activate', *operand(name))}`."
    )


def record_of(model: Model) -> ModelRecord:
    """A model as the database remembers it."""
    return ModelRecord(
        id=model.id,
        name=model.name,
        architecture=model.configuration.architecture,
        synthetic=model.configuration.synthetic,
        configuration=model.configuration.as_json(),
        code_version=model.configuration.code_version,
    )
