"""A model at work: from decoded fields to assessments. Prepare (in threads), infer (one engine call), assess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from allq.cores import cores
from allq.errors import ModelDamaged
from allq.logging import logger
from allq.memory import ran_out_of_memory
from allq.settings import Settings
from imaging.decode import Decoded
from imaging.overlays import find_overlays, without_overlays
from imaging.quality import Quality
from imaging.segment import Segmentation, segment
from models.artefact import Model
from models.calibration import sigmoid, softmax
from models.engines import Engine, NetworkOutput, join, on_card, start
from models.flags import DIVIDED, NO_LEUKOCYTES, NOVEL, UNCERTAIN, divided
from models.inputs import CACHED_SIDE, cells_view, field_view, judge, to_cached
from models.leukocytes import Nuclei, count_suspects, lay_out, margins
from models.novelty import Novelty

if TYPE_CHECKING:
    from models.batched import BatchPreparer

log = logger(__name__)

_CALLS_OF_FEWER: Final = 64
"""About a chunk's, where four fields are a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedField:
    """A field, ready for the network."""

    cells: NDArray[np.uint8]
    """RGB (C, C, 3): its leukocytes on plain glass"""
    field: NDArray[np.uint8]
    """RGB (F, F, 3): the whole field, overlays painted over"""
    segmentation: Segmentation
    nuclei: Nuclei
    quality: Quality
    width: int
    """of the original image, in pixels"""
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What the model says of one field."""

    call: str | None
    """a class, or None where no leukocyte was found"""
    confidence: float
    """the probability of the call; 0 without one"""
    probabilities: tuple[float, ...]
    """in the order of the model's classes, calibrated"""
    suspicion: float
    """1 − probability of benign; 0 without a call"""
    novelty: float
    flags: tuple[str, ...]
    suspicions: tuple[float, ...]
    """of each leukocyte, in the order of the segmentation, 0 to 1"""
    suspects: int
    """leukocytes whose suspicion reaches the model's threshold; 0 in a field called benign"""


class Classifier:
    """A loaded model. `prepare` may run in many threads at once, `infer` in one."""

    def __init__(self, model: Model, engine: Engine) -> None:
        self.model = model
        self.batches: BatchPreparer | None = None
        """what prepares whole batches of files on the card, where there is one; else `prepare` does, field by field"""
        self._configuration = model.configuration
        self._engine = engine
        self._most: int | None = None  # fields per call, while memory ran out with more not long ago
        self._calls_left = 0  # until more are tried again
        try:
            self._novelty = Novelty.from_arrays(model.arrays(), neighbours=model.configuration.novelty.neighbours)
        except KeyError as error:
            raise ModelDamaged(f"The weights of model {model.name} lack {error}; install it again.") from None

    @classmethod
    def load(cls, model: Model, settings: Settings) -> Classifier:
        """Load the weights into the engine the settings ask for. Raises ModelDamaged and SettingsError."""
        engine = start(model, settings)
        classifier = cls(model, engine)
        if on_card(engine):
            from models.batched import BatchPreparer  # noqa: PLC0415  # only here is torch wanted before the network

            classifier.batches = BatchPreparer(
                model.configuration,
                device="cuda",
                threads=settings.preparers or cores(),
                decode_side=classifier.decode_side,
            )
        return classifier

    @property
    def engine_name(self) -> str:
        """What runs the network, where and at which precision."""
        return self._engine.name

    @property
    def decode_side(self) -> int:
        """What `imaging.decode.decode` should be given as `reduce_to`."""
        return max(2 * CACHED_SIDE, self._configuration.segmentation.working_side)

    def prepare(self, decoded: Decoded) -> PreparedField:
        """Paint over what was burned in, find the leukocytes, judge the quality, make the network's two pictures."""
        parameters = self._configuration.segmentation
        overlays = find_overlays(decoded.pixels, parameters.overlays)
        segmentation = segment(
            decoded.pixels, parameters, original_size=(decoded.width, decoded.height), overlays=overlays
        )
        square = to_cached(without_overlays(decoded.pixels, overlays), segmentation, rim=self._configuration.rim)
        return PreparedField(
            cells=cells_view(square, self._configuration.input_sizes.cells),
            field=field_view(square, self._configuration.input_sizes.field),
            segmentation=segmentation,
            nuclei=lay_out(segmentation),
            quality=judge(decoded.pixels, segmentation, decoded.width, self._configuration.quality),
            width=decoded.width,
            height=decoded.height,
        )

    def infer(self, prepared: Sequence[PreparedField]) -> NetworkOutput:
        """N ≥ 1 fields through the network.

        A call for which memory runs out is made again with fewer fields, as few as the engine has use for. So are the
        next calls, until memory may have come back.
        """
        outputs: list[NetworkOutput] = []
        done = 0
        while done < len(prepared):
            if self._most is not None and not self._calls_left:
                self._most = None
            part = prepared[done : done + (self._most or len(prepared))]
            try:
                outputs.append(self._run(part))
            except (MemoryError, RuntimeError) as error:
                fewer = self._engine.fewer(len(part))
                if not fewer or not ran_out_of_memory(error):
                    raise
                self._most, self._calls_left = fewer, _CALLS_OF_FEWER
                log.warning("memory ran out: smaller batches for a while", fields=fewer)
            else:
                done += len(part)
                self._calls_left = max(0, self._calls_left - 1)
        return join(outputs)

    def _run(self, prepared: Sequence[PreparedField]) -> NetworkOutput:
        cells, fields = (np.stack([getattr(each, view) for each in prepared]) for view in ("cells", "field"))
        return self._engine.run(cells, fields)

    def assess(self, prepared: Sequence[PreparedField], output: NetworkOutput) -> list[Assessment]:
        """Turn the network's output for `prepared`, in the same order, into assessments."""
        probabilities = softmax(output.logits, self._configuration.temperature)
        calls = probabilities.argmax(axis=1)
        called = np.array([len(field.segmentation.leukocytes) > 0 for field in prepared], dtype=bool)
        disagreeing = divided(output.views)
        novelty = self._novelty.score(output.embeddings, np.where(called, calls > 0, -1))
        return [
            self._assess(
                field,
                probabilities[index],
                float(novelty[index]),
                output.maps(index),
                views_disagree=bool(disagreeing[index]),
            )
            for index, field in enumerate(prepared)
        ]

    def classify(self, prepared: Sequence[PreparedField]) -> list[Assessment]:
        """Infer and assess."""
        if not prepared:
            return []
        return self.assess(prepared, self.infer(prepared))

    def _assess(
        self,
        field: PreparedField,
        probabilities: NDArray[np.float64],
        novelty: float,
        class_maps: Sequence[NDArray[np.float32]],
        *,
        views_disagree: bool,
    ) -> Assessment:
        configuration = self._configuration
        rule = configuration.leukocyte
        suspicions = sigmoid(rule.offset + rule.slope * margins(class_maps, field.nuclei))
        best = int(probabilities.argmax())
        called = len(field.segmentation.leukocytes) > 0
        confidence = float(probabilities[best])
        flags = set(field.quality.flags)
        if novelty > configuration.threshold(NOVEL):
            flags.add(NOVEL)
        if not called:
            flags.add(NO_LEUKOCYTES)
        else:
            if confidence < configuration.threshold(UNCERTAIN):
                flags.add(UNCERTAIN)
            if views_disagree:
                flags.add(DIVIDED)
        return Assessment(
            call=configuration.classes[best] if called else None,
            confidence=confidence if called else 0.0,
            probabilities=tuple(float(value) for value in probabilities),
            suspicion=float(1 - probabilities[0]) if called else 0.0,
            novelty=novelty,
            flags=tuple(sorted(flags)),
            suspicions=tuple(float(value) for value in suspicions),
            suspects=count_suspects(suspicions, rule, suspect_field=called and best != 0),
        )
