"""Fields prepared together on a device, for workers with a card: from files' bytes to what the network takes.

Pixels are decoded, reduced, balanced, stained and made into views by the batch on the device; leukocytes are found and
measured field by field on the host's threads, by the code that does it everywhere (`imaging.batched` says why). Two
batches are under way at a time, each on a stream of its own, while the network runs on a third.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import local
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allq.errors import FieldError
from imaging.batched.decode import DecodedTensor, decode_together
from imaging.batched.morphology import within
from imaging.batched.overlays import may_have_bar, may_have_surround
from imaging.batched.resize import reduced, resized
from imaging.batched.stain import StainedBatch, stained
from imaging.batched.transfer import fetched, halving, sent
from imaging.batched.views import balanced, on_glass
from imaging.layers import ring_width
from imaging.overlays import Overlays, find_overlays, without_overlays
from imaging.quality import Quality
from imaging.segment import Segmentation, Thresholded, segmented, working_size
from imaging.stain import Stained
from models.artefact import ModelConfiguration
from models.classifier import PreparedField
from models.engines.choose import card_failed
from models.inputs import CACHED_SIDE, judge, sampled
from models.leukocytes import lay_out

Pixels = NDArray[np.uint8]

_UNDER_WAY: Final = 2
"""Batches at a time: while the host finds the leukocytes of one, the device decodes the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the host finds in one field."""

    segmentation: Segmentation
    quality: Quality
    nuclei: NDArray[np.bool_]
    """(CACHED_SIDE, CACHED_SIDE)"""
    ring: float
    """width around the nuclei in pixels of that square; 0 where there are none"""


class BatchPreparer:
    """Prepares batches of files for one model on one device."""

    under_way: Final = _UNDER_WAY

    def __init__(self, configuration: ModelConfiguration, *, device: str, threads: int, decode_side: int) -> None:
        """`threads` of the host find leukocytes; `decode_side` is `Classifier.decode_side`."""
        self._configuration = configuration
        self._device = torch.device(device)
        self._decode_side = decode_side
        self._batches = ThreadPoolExecutor(_UNDER_WAY, thread_name_prefix="card")
        self._host = ThreadPoolExecutor(threads, thread_name_prefix="leukocytes")
        self._own = local()

    def submit(self, files: Sequence[bytes], *, max_pixels: int) -> list[Future[PreparedField]]:
        """Begin to prepare the files together; each future ends with its field, or with the FieldError it has."""
        futures: list[Future[PreparedField]] = [Future() for _ in files]
        self._batches.submit(self._prepare_for, list(files), list(futures), max_pixels)
        return futures

    def _prepare_for(self, files: list[bytes], futures: list[Future[PreparedField]], max_pixels: int) -> None:
        wanted = [place for place, future in enumerate(futures) if future.set_running_or_notify_cancel()]
        try:
            prepared = self.prepare([files[place] for place in wanted], max_pixels=max_pixels)
        except BaseException as error:  # noqa: BLE001  # whoever waits for a field is told
            for place in wanted:
                futures[place].set_exception(error)
            # The error has this frame: they would hold each other until the collector comes round.
            futures.clear()
            files.clear()
            return
        for place, field in zip(wanted, prepared, strict=True):
            if isinstance(field, Exception):
                futures[place].set_exception(field)
            else:
                futures[place].set_result(field)

    def prepare(self, files: Sequence[bytes], *, max_pixels: int) -> list[PreparedField | Exception]:
        """Each file's prepared field, or the error it has: MemoryError for one that the device has no room for.

        What is raised is nobody's own: the device answers no more.
        """
        return self.prepare_decoded(self.decode(files, max_pixels=max_pixels))

    def decode(self, files: Sequence[bytes], *, max_pixels: int) -> list[DecodedTensor | Exception]:
        """The first half of `prepare`: each file's pixels on the device, or the error it has."""

        def decoded(some: Sequence[bytes]) -> list[DecodedTensor | FieldError]:
            return decode_together(
                some, max_pixels=max_pixels, reduce_to=self._decode_side, device=self._device, on_host=self._host.map
            )

        with torch.inference_mode(), self._stream():
            return halving(decoded, files, ends=card_failed)

    def prepare_decoded(self, images: Sequence[DecodedTensor | Exception]) -> list[PreparedField | Exception]:
        """The second half of `prepare`, by the same thread as the first: whatever is no picture stays as it is."""
        with torch.inference_mode(), self._stream():
            alike: dict[tuple[int, ...], dict[int, DecodedTensor]] = defaultdict(dict)
            for place, image in enumerate(images):
                if isinstance(image, DecodedTensor):
                    alike[tuple(image.pixels.shape)][place] = image
            found: dict[int, PreparedField | Exception] = {}
            for of_one_size in alike.values():
                prepared = halving(self._together, list(of_one_size.values()), ends=card_failed)
                found.update(zip(of_one_size, prepared, strict=True))
        return [found[place] if isinstance(image, DecodedTensor) else image for place, image in enumerate(images)]

    def _stream(self) -> AbstractContextManager[Any]:
        """This thread's own stream, where the device has such."""
        if self._device.type != "cuda":
            return nullcontext()
        if not hasattr(self._own, "stream"):
            self._own.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return torch.cuda.stream(self._own.stream)

    def _together(self, images: Sequence[DecodedTensor]) -> list[PreparedField]:
        """Prepare decoded fields of one size."""
        parameters = self._configuration.segmentation
        rgb = torch.stack([image.pixels for image in images])
        working = reduced(rgb, working_size(rgb.shape[2:], parameters.working_side))
        pixels, covers = self._overlays(rgb)
        covers_working = covers if working is rgb else self._overlays(working)[1]
        layers, masks, found, below = _on_host(stained(working, self._covered(covers_working), parameters))

        def find(place: int) -> _Found:
            image = images[place]
            planes = layers[place]
            field = Stained(
                green=np.ascontiguousarray(planes[..., 1]),
                blue=np.ascontiguousarray(planes[..., 2]),
                stain=np.ascontiguousarray(planes[..., 3]),
                layers=planes,
            )
            nuclear = Thresholded(mask=masks[place], below=float(below[place])) if found[place] else None
            size = image.width, image.height
            segmentation = segmented(field, nuclear, covers_working[place], parameters, size)
            nuclei = sampled(segmentation.nuclei, CACHED_SIDE)
            return _Found(
                segmentation=segmentation,
                quality=judge(pixels[place], segmentation, image.width, self._configuration.quality),
                nuclei=nuclei > 0,
                ring=ring_width(nuclei, rim=self._configuration.rim),
            )

        fields = list(self._host.map(find, range(len(images))))
        cells, whole = self._views(self._painted(rgb, pixels, covers), fields)
        return [
            PreparedField(
                cells=cells[place],
                field=whole[place],
                segmentation=field.segmentation,
                nuclei=lay_out(field.segmentation),
                quality=field.quality,
                width=image.width,
                height=image.height,
            )
            for place, (image, field) in enumerate(zip(images, fields, strict=True))
        ]

    def _overlays(self, rgb: Tensor) -> tuple[Pixels, list[Overlays]]:
        """The fields on the host, (N, h, w, 3), and what covers each: looked for where the device sees a sign of it."""
        parameters = self._configuration.segmentation.overlays
        signs = may_have_bar(rgb, parameters) | may_have_surround(rgb, parameters)
        pixels, suspected = fetched(rgb.permute(0, 2, 3, 1).contiguous(), signs)

        def look(place: int) -> Overlays:
            if suspected[place]:
                return find_overlays(pixels[place], parameters)
            return Overlays(shape=pixels.shape[1:3], bar=None, surround=None)

        return pixels, list(self._host.map(look, range(len(pixels))))

    def _covered(self, covers: Sequence[Overlays]) -> Tensor:
        return sent(np.stack([cover.mask() for cover in covers]), self._device)

    def _painted(self, rgb: Tensor, pixels: Pixels, covers: Sequence[Overlays]) -> Tensor:
        """The fields, RGB uint8 (N, 3, h, w), with what covers them painted over."""
        places = [place for place, cover in enumerate(covers) if cover]
        if not places:
            return rgb
        painted = np.stack(list(self._host.map(lambda place: without_overlays(pixels[place], covers[place]), places)))
        result = rgb.clone()
        result[sent(np.array(places), self._device)] = sent(painted, self._device).permute(0, 3, 1, 2)
        return result

    def _views(self, rgb: Tensor, fields: Sequence[_Found]) -> tuple[Pixels, Pixels]:
        """The leukocytes on glass, (N, C, C, 3), and the whole fields, (N, F, F, 3): as `models.inputs` makes them."""
        squares = resized(rgb, (CACHED_SIDE, CACHED_SIDE))
        nuclei = sent(np.stack([field.nuclei for field in fields]), self._device)
        rings = np.array([field.ring for field in fields], np.float32)
        cells = on_glass(balanced(squares), within(nuclei, sent(rings, self._device), furthest=float(rings.max())))
        sizes = self._configuration.input_sizes
        views = resized(cells, (sizes.cells, sizes.cells)), resized(squares, (sizes.field, sizes.field))
        on_glass_views, whole = fetched(*(view.permute(0, 2, 3, 1).contiguous() for view in views))
        return on_glass_views, whole


def _on_host(batch: StainedBatch) -> tuple[NDArray[Any], ...]:
    """Layers (N, h, w, 4), masks of 0 and 255 (N, h, w), whether nuclei were found and the mean below, (N,)."""
    return fetched(batch.layers, batch.masks.to(torch.uint8) * 255, batch.found, batch.below)
