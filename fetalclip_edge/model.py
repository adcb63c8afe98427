"""A model ready to answer: a bundle, its preprocessing, a backend and the tasks."""

from __future__ import annotations

import math
import operator
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.backends import Backend, load_backend
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import (
    BackendError,
    BundleError,
    InvalidImageError,
    InvalidImageTypeError,
)
from fetalclip_edge.masking import InputMask, crop
from fetalclip_edge.preprocess import Preprocessor
from fetalclip_edge.results import (
    ColorOrder,
    Frame,
    GestationalAge,
    HeadBiometry,
    Region,
    Result,
    StreamState,
    Timing,
)
from fetalclip_edge.sectors import SectorWatch
from fetalclip_edge.tasks.age_bank import AgeBank
from fetalclip_edge.tasks.biometry import HEAD_OUTPUT, HeadSpec, HeadTask
from fetalclip_edge.tasks.domain import DomainCheck
from fetalclip_edge.tasks.growth import DEFAULT_CHART, age_from_circumference, chart_named
from fetalclip_edge.tasks.heart import heart_of
from fetalclip_edge.tasks.planes import PlanesTask
from fetalclip_edge.tasks.quality import assess, is_flat
from fetalclip_edge.tasks.registry import frame_tasks
from fetalclip_edge.tasks.seen import Seen
from fetalclip_edge.turns import Turns, turns_at_once

__all__ = ["Model", "load"]

_BATCH = 8
_NO_PICTURE = "the picture is flat: no signal"


class Model:
    """Answers for single images and, through `fetalclip_edge.stream`, for live frames.

    Made by `fetalclip_edge.load`. One model may serve several threads.

    Attributes:
        bundle: what was loaded.
        backend: what runs it.
        preprocessor: makes the backend's input.
        chart: growth chart by which gestational age follows from head circumference.
        heart: scores the heart by embeddings of a clip; None where the bundle has no head for it.
        turns: of the streams that share it; as many at once as `at_once` says.

    Raises:
        ValueError: there is no such chart.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        backend: Backend,
        chart: str = DEFAULT_CHART,
        *,
        at_once: int = 1,
    ) -> None:
        self.chart = chart_named(chart).name
        self.bundle = bundle
        self.backend = backend
        self.preprocessor = Preprocessor(bundle.preprocess)
        self._mask = InputMask(bundle.preprocess)
        self._planes = PlanesTask(bundle)
        self._domain = DomainCheck(bundle)
        self._head: HeadTask | None = None
        if bundle.head is not None:
            self._head = HeadTask(HeadSpec.from_dict(bundle.head), bundle.preprocess.size)
        self._tasks = frame_tasks(bundle)
        self.heart = heart_of(bundle)
        self._ages = AgeBank.of_bundle(bundle)
        self._check_outputs()
        self.turns = Turns(at_once)
        self._buffers = threading.local()

    def analyze(
        self,
        image: NDArray[np.uint8],
        pixel_size_mm: float | None = None,
        *,
        color: ColorOrder = "rgb",
        region: Region | tuple[int, int, int, int] | Literal["auto"] | None = None,
    ) -> Result:
        """Answer for one image.

        Args:
            image: uint8 `(H, W)` grey or `(H, W, 3)`.
            color: order of the channels of an `(H, W, 3)` image, "rgb" or "bgr".
            region: `(x, y, width, height)` of the ultrasound within the image, or None for all.
                "auto" finds it; what is around it is blanked, and cut off where the ultrasound
                takes less than four fifths of the image.
            pixel_size_mm: millimetres per pixel of `image`, or None when unknown. Answers in
                millimetres need it; a bundle without such answers ignores it.

        Returns:
            The result; `state` is `live`, `no_signal` for a flat picture, or `out_of_domain`
            where the model abstains.

        Raises:
            InvalidImageError: the image is empty or has a wrong shape (a ValueError).
            InvalidImageTypeError: it is not a uint8 array (a TypeError).
            ValueError: `pixel_size_mm` is not a positive number, or `region` no rectangle.
            BackendError: the backend failed, or gave numbers that are not finite.
        """
        check_pixel_size(pixel_size_mm)
        mask = None
        if isinstance(region, str) and region == "auto":
            shown = SectorWatch(film=False).update(image)
            region, mask = (None, None) if shown is None else (shown.region, shown.mask)
        return self._answer(
            image, color, check_region(region), mask=mask, pixel_size_mm=pixel_size_mm
        )

    def analyze_frame(self, frame: Frame) -> Result:
        """Answer for a frame of a source, in its own colour order, region and mask."""
        return self._answer(
            frame.image,
            frame.color,
            frame.region,
            frame.source,
            frame,
            mask=frame.mask,
            pixel_size_mm=frame.pixel_size_mm,
        )

    def embed(self, images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embeddings of images, for probes and retrieval.

        Args:
            images: one image `(H, W)` or `(H, W, 3)` RGB, a stack of them `(N, H, W)` or
                `(N, H, W, 3)`, or a sequence of images of any sizes. A three-dimensional array
                whose last axis is 3 is one RGB image.

        Returns:
            float32 `(N, D)`, L2-normalised; `(0, D)` for an empty sequence.

        Raises:
            InvalidImageError: an image is empty or has a wrong shape (a ValueError).
            InvalidImageTypeError: an image is not a uint8 array (a TypeError).
        """
        listed = _as_list(images)
        spec = self.bundle.preprocess
        embeddings = np.empty((len(listed), self.bundle.embedding_dim), dtype=np.float32)
        inputs = np.empty(
            (min(_BATCH, len(listed)), spec.channels, spec.size, spec.size), dtype=spec.dtype
        )
        for start in range(0, len(listed), _BATCH):
            batch = listed[start : start + _BATCH]
            for index, image in enumerate(batch):
                self.preprocessor(image, out=inputs[index : index + 1])
            wanted = {"embedding": embeddings[start : start + len(batch)]}
            self.backend.encode(inputs[: len(batch)], wanted)
        return embeddings

    def _age(
        self,
        head: HeadBiometry | None,
        embedding: NDArray[np.float32],
        seen: Region,
        pixel_size_mm: float | None,
    ) -> GestationalAge | None:
        """By circumference, which is the better, or from the embedding where there is none."""
        if head is not None and head.head_circumference_mm is not None:
            error = head.head_circumference_error_mm or 0.0
            return age_from_circumference(head.head_circumference_mm, error, self.chart)
        if self._ages is None or pixel_size_mm is None:
            return None
        scale = max(seen.width, seen.height) / self.bundle.preprocess.size
        return self._ages(embedding, pixel_size_mm * scale)

    def _check_outputs(self) -> None:
        outputs = self.backend.signature.outputs
        if self._head is not None and len(outputs.get(HEAD_OUTPUT, ())) != 3:
            raise BundleError(
                f"the manifest describes a head, but the graph gives no map {HEAD_OUTPUT} of it"
            )
        for name, size in self._domain.sizes.items():
            if name not in outputs:
                raise BundleError(f"domain.safetensors is of {name}, which the graph does not give")
            if (shape := outputs[name]) != (size,):
                raise BundleError(
                    f"domain.safetensors: '{name}.means' must have {shape[-1]} columns, not {size}"
                )

    def _check_finite(self, embedding: NDArray[np.float32], distance: float | None) -> None:
        """Refuse numbers of which no score can be made, and which exceed no threshold."""
        length = float(np.dot(embedding, embedding))
        if not (math.isfinite(length) and (distance is None or math.isfinite(distance))):
            raise BackendError(
                f"the backend {self.backend.name} gave numbers that are not finite; load the model "
                "with another backend or precision (see docs/backends.md)"
            )

    def _buffer(self) -> NDArray[Any]:
        """The input of one frame, used again and again, one for each thread."""
        buffer: NDArray[Any] | None = getattr(self._buffers, "input", None)
        if buffer is None:
            spec = self.bundle.preprocess
            buffer = self._buffers.input = np.empty(spec.shape, dtype=spec.dtype)
        return buffer

    def _answer(
        self,
        image: NDArray[np.uint8],
        color: ColorOrder,
        region: Region | None = None,
        source: str | None = None,
        frame: Frame | None = None,
        *,
        mask: NDArray[np.uint8] | None = None,
        pixel_size_mm: float | None = None,
    ) -> Result:
        begin = time.perf_counter_ns()
        inputs = self.preprocessor(image, color=color, region=region, out=self._buffer())
        if mask is not None:
            if mask.shape != image.shape[:2]:
                raise InvalidImageError(
                    f"a frame's mask must be as large as its image, {image.shape[:2]}, "
                    f"not {mask.shape}"
                )
            self._mask(inputs, mask, region)
        prepared = time.perf_counter_ns()
        outputs = self.backend.encode(inputs)
        embedding = outputs["embedding"][0]
        encoded = time.perf_counter_ns()
        flat = is_flat(crop(image, region), None if mask is None else crop(mask, region))
        distance = None if flat else self._domain.distance(outputs)
        self._check_finite(embedding, distance)
        reason = _NO_PICTURE if distance is None else self._domain.objection(distance)
        plane, brain_plane = self._planes(embedding, abstain=reason is not None)
        state = StreamState.LIVE
        if reason is not None:
            state = StreamState.NO_SIGNAL if flat else StreamState.OUT_OF_DOMAIN
        head, age = None, None
        if plane.label == "brain":
            seen = region or Region(0, 0, image.shape[1], image.shape[0])
            if self._head is not None:
                head = self._head(outputs[HEAD_OUTPUT][0, 0], seen, pixel_size_mm)
            age = self._age(head, embedding, seen, pixel_size_mm)
        quality = None if flat else assess(inputs, self.bundle.preprocess)
        probes = {}
        if self._tasks:
            known = Seen(outputs, plane, reason is not None, pixel_size_mm)
            probes = {name: task(known) for name, task in self._tasks.items()}
        done = time.perf_counter_ns()
        return Result(
            state=state,
            plane=plane,
            brain_plane=brain_plane,
            gestational_age=age,
            head=head,
            timing=Timing(
                preprocess_ms=(prepared - begin) / 1e6,
                inference_ms=(encoded - prepared) / 1e6,
                interpret_ms=(done - encoded) / 1e6,
            ),
            embedding=embedding,
            source=source,
            frame_index=None if frame is None else frame.index,
            pts_s=None if frame is None else frame.pts_s,
            reason=reason,
            domain_distance=distance,
            quality=quality,
            probes=probes,
        )


def load(
    bundle: str | Path | None = None,
    backend: str = "auto",
    *,
    threads: int = 1,
    precision: str | None = None,
    chart: str = DEFAULT_CHART,
) -> Model:
    """Load a bundle, ready for the first frame.

    Args:
        bundle: folder of the bundle, or None for the one that the package ships.
        backend: name of a backend, or "auto": the fastest as `fetalclip-edge tune` found on this
            device, or else the first that works of those preferred (see docs/backends.md).
        threads: CPU threads for one frame. One leaves the others to the device.
        precision: of the graph, such as "int8", or None for the best ("auto") or the first that
            the bundle has for the backend.
        chart: growth chart by which gestational age follows from head circumference: "who",
            "intergrowth" or "hadlock".

    Raises:
        BundleNotFoundError, BundleIntegrityError, BundleError: see `ModelBundle.load`; or the graph
            lacks what the bundle's domain looks at.
        BackendError: the backend cannot load the graph.
        ValueError: there is no such backend or chart, or `threads` is out of range.

    Example:
        >>> import fetalclip_edge as fe
        >>> model = fe.load()
        >>> model.backend.precision
        'int8'
    """
    chart_named(chart)
    checked = ModelBundle.load(bundle)
    loaded = load_backend(checked, backend, threads, precision)
    return Model(checked, loaded, chart, at_once=turns_at_once(threads))


def check_pixel_size(pixel_size_mm: float | None) -> None:
    """Refuse a pixel size that is not a positive number of millimetres.

    Raises:
        TypeError: it is no number.
        ValueError: it is zero, negative or not finite.
    """
    if isinstance(pixel_size_mm, bool) or not isinstance(
        pixel_size_mm, (int, float, np.number, type(None))
    ):
        raise TypeError(f"pixel_size_mm must be a number of millimetres, not {pixel_size_mm!r}")
    if pixel_size_mm is not None and not (math.isfinite(pixel_size_mm) and pixel_size_mm > 0):
        raise ValueError(
            f"pixel_size_mm must be a positive number of millimetres, not {pixel_size_mm!r}"
        )


def check_region(region: Region | tuple[int, ...] | None) -> Region | None:
    """A region as such, or None.

    Raises:
        ValueError: it is not four whole numbers, or has no place or size in any frame.
    """
    if region is None:
        return None
    try:
        checked = Region(*map(operator.index, region))
    except TypeError:
        raise ValueError(
            f"region must be (x, y, width, height) in pixels, not {region!r}"
        ) from None
    if min(checked.x, checked.y) < 0 or min(checked.width, checked.height) < 1:
        raise ValueError(f"region must have a place and a size in the frame, not {region!r}")
    return checked


def _as_list(
    images: NDArray[np.uint8] | Iterable[NDArray[np.uint8]],
) -> list[NDArray[np.uint8]]:
    # (H, W, 4) is one RGBA picture, to be refused, and no stack of pictures 4 pixels wide.
    if isinstance(images, np.ndarray) and (
        images.ndim < 3 or (images.ndim == 3 and images.shape[2] <= 4)
    ):
        return [images]
    if not isinstance(images, Iterable):
        raise InvalidImageTypeError(
            f"images must be uint8 arrays, not {type(images).__qualname__}; "
            "give one, a stack or a sequence of them"
        )
    return list(images)
