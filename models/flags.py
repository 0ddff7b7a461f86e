"""The flags a model can raise, with the sentence that explains each. The thresholds stand in its model.json."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imaging.flags import BADLY_EXPOSED, BLURRED
from imaging.parameters import QualityParameters
from models.artefact import Flag

NOVEL: Final = "novel"
UNCERTAIN: Final = "uncertain"
DIVIDED: Final = "views-disagree"
NO_LEUKOCYTES: Final = "no-leukocytes"
DUPLICATE: Final = "duplicate"
SCATTERED: Final = "scattered-suspects"
FAILED_FIELDS: Final = "failed-fields"
CANCELLED_FIELDS: Final = "cancelled-fields"

OF_SLIDES: Final = {
    DUPLICATE: Flag(sentence="The same file lies under more than one slide: one of them may be mislabelled."),
    SCATTERED: Flag(
        sentence="Some fields of the slide are suspect, too few to tell from mistakes: look at them one by one."
    ),
    FAILED_FIELDS: Flag(sentence="Some files of the slide could not be screened; see its failures."),
    CANCELLED_FIELDS: Flag(sentence="Screening was cancelled before all files of the slide had been looked at."),
}
"""Flags that no threshold of a model raises: one that was made before one of them raises it all the same."""


def divided(views: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether a field's views are on different sides of benign and ALL: (N, V, classes) logits to (N,)."""
    suspect = views.argmax(axis=2) > 0
    return np.asarray(suspect.any(axis=1) & ~suspect.all(axis=1))


def flags(*, novel: float, uncertain: float, quality: QualityParameters) -> dict[str, Flag]:
    """Every flag of a field and of a slide. The quality checks' further thresholds stand in `quality`."""
    return {
        NOVEL: Flag(
            sentence="The field looks unlike those of its call that the model was trained on, or more like those of "
            "the other side (its novelty is above the threshold): don't trust the call.",
            threshold=novel,
        ),
        UNCERTAIN: Flag(
            sentence="The model can't decide between classes: its highest probability is below the threshold.",
            threshold=uncertain,
        ),
        DIVIDED: Flag(
            sentence="The leukocytes by themselves, the field by its leukocytes and the field by its look don't all "
            "speak for the same side, benign or ALL: don't trust the call.",
        ),
        NO_LEUKOCYTES: Flag(sentence="No leukocyte was found in the field, so nothing was called."),
        BLURRED: Flag(
            sentence="The field is out of focus: its sharpness is below the threshold.",
            threshold=quality.least_sharpness,
        ),
        BADLY_EXPOSED: Flag(
            sentence="The field is too dark (its background is below the threshold) or burnt out: it can't be judged.",
            threshold=quality.least_background,
        ),
        **OF_SLIDES,
    }
