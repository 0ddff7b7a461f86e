"""The flags a model can raise, with the sentence that explains each. The thresholds stand in its model.json."""

from __future__ import annotations

from typing import Final

from models.artefact import Flag

NOVEL: Final = "novel"
UNCERTAIN: Final = "uncertain"
NO_LEUKOCYTES: Final = "no-leukocytes"
DUPLICATE: Final = "duplicate"
SCATTERED: Final = "scattered-suspects"
FAILED_FIELDS: Final = "failed-fields"


def flags(*, novel: float, uncertain: float, quality: dict[str, float | None]) -> dict[str, Flag]:
    """Every flag of a field and of a slide. `quality` gives the thresholds of the quality checks."""
    return {
        NOVEL: Flag(
            sentence="The field looks unlike everything the model was trained on (its novelty is above the threshold): "
            "its call means nothing.",
            threshold=novel,
        ),
        UNCERTAIN: Flag(
            sentence="The model can't decide between classes: its highest probability is below the threshold.",
            threshold=uncertain,
        ),
        NO_LEUKOCYTES: Flag(sentence="No leukocyte was found in the field, so nothing was called."),
        "blurred": Flag(
            sentence="The field is out of focus: its sharpness is below the threshold.",
            threshold=quality.get("blurred"),
        ),
        "badly-exposed": Flag(
            sentence="The field is too dark, too bright or has too little contrast to be judged.",
            threshold=quality.get("badly-exposed"),
        ),
        DUPLICATE: Flag(sentence="The same file lies under more than one slide: one of them may be mislabelled."),
        SCATTERED: Flag(
            sentence="Some fields of the slide are suspect, too few to tell from mistakes: look at them one by one."
        ),
        FAILED_FIELDS: Flag(sentence="Some files of the slide could not be screened; see its failures."),
    }
