"""Frames from arrays in memory, from iterables of arrays, and from objects with `read()`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.errors import (
    FrameError,
    InvalidImageError,
    InvalidImageTypeError,
    SourceError,
)
from fetalclip_edge.results import ColorOrder, Frame
from fetalclip_edge.sources._handle import Handle
from fetalclip_edge.sources.base import Source

__all__ = ["ArraySource", "IterableSource", "Reader", "ReaderSource", "check_picture"]

_WANTED = "a uint8 array of shape (H, W) or (H, W, 3)"


class Reader(Protocol):
    """Anything with `read()`: an array, `(ok, array)` as `cv2.VideoCapture` says it, or None."""

    def read(self) -> object:
        """The next picture, or None (or `(False, ...)`) when there is none."""
        ...


def check_picture(image: object, what: str) -> NDArray[np.uint8]:
    """`image` itself, when it is a picture that a `Frame` may hold.

    Args:
        image: what the source was given.
        what: how to call it in an error, such as "frame 3 of camera".

    Raises:
        InvalidImageTypeError: it is no uint8 array.
        InvalidImageError: its shape is not `(H, W)` or `(H, W, 3)`, or it is empty.
    """
    if not isinstance(image, np.ndarray):
        kind = f"{type(image).__module__}.{type(image).__qualname__}".removeprefix("builtins.")
        raise InvalidImageTypeError(
            f"{what} is a {kind}; give {_WANTED}, for example numpy.asarray(picture)"
        )
    if image.dtype != np.uint8:
        raise InvalidImageTypeError(
            f"{what} is {image.dtype} {image.shape}; give {_WANTED}: "
            "scale it to 0..255 and convert it with .astype(numpy.uint8)"
        )
    if image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise InvalidImageError(f"{what} has the shape {image.shape}; give {_WANTED}")
    return image


class ArraySource(Source):
    """Pictures that are in memory already. The frames are views of the array, not copies.

    Args:
        array: uint8; `(H, W)` is one grey picture and `(H, W, 3)` one RGB picture, `(N, H, W)` and
            `(N, H, W, 3)` are N of them. Three axes of which the last has length 3 are always one
            colour picture.
        name: how to call it in results.

    Raises:
        InvalidImageTypeError: `array` is not uint8.
        InvalidImageError: its shape is none of these, or it is empty.
    """

    still_pictures = True

    def __init__(self, array: NDArray[np.uint8], *, name: str = "array") -> None:
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
            check_picture(array, "the array")
        last = array.shape[-1] if array.ndim else 0
        single = array.ndim == 2 or (array.ndim == 3 and last == 3)
        # (H, W, 4) is one RGBA picture and no stack of pictures 4 pixels wide.
        grey_stack = array.ndim == 3 and last > 4
        color_stack = array.ndim == 4 and last == 3
        if array.size == 0 or not (single or grey_stack or color_stack):
            raise InvalidImageError(
                f"the array has the shape {array.shape}; "
                "give uint8 (H, W), (H, W, 3), (N, H, W) or (N, H, W, 3)"
            )
        stack = array[None] if single else array
        self.name = name
        self.frame_count = len(stack)
        self._stack = stack
        self._handle: Handle[Iterator[tuple[int, NDArray[np.uint8]]]] = Handle(name)

    def open(self) -> None:
        """Start at the first picture."""
        self._handle.open(lambda: (enumerate(self._stack), lambda: None))

    def read(self) -> Frame | None:
        """The next picture, or None after the last."""
        with self._handle.borrow() as pictures:
            index, image = next(pictures, (0, None)) if pictures else (0, None)
            return None if image is None else _frame(image, "rgb", index, self.name)

    def close(self) -> None:
        """Let go of the array."""
        self._handle.close()


class IterableSource(Source):
    """Pictures from an iterable or generator, which is asked for one only when one is read.

    Every picture is copied, since a generator may fill the same buffer again.

    Args:
        pictures: uint8 arrays, `(H, W)` grey or `(H, W, 3)` RGB.
        name: how to call it in results.
    """

    def __init__(self, pictures: Iterable[object], *, name: str = "iterable") -> None:
        self.name = name
        # A list is a collection; a generator may well be a camera.
        self.still_pictures = isinstance(pictures, Sequence)
        self._pictures = pictures
        self._index = -1
        self._handle: Handle[Iterator[object]] = Handle(name)

    def open(self) -> None:
        """Get the iterator.

        Raises:
            SourceError: the iterable cannot be iterated.
        """
        try:
            self._handle.open(lambda: (iter(self._pictures), lambda: None))
        except SourceError:
            raise
        except Exception as error:
            raise SourceError(f"{self.name}: iter() failed: {_told(error)}") from error

    def read(self) -> Frame | None:
        """Ask the iterable for one picture.

        Raises:
            FrameError: what it gave is no picture; the message says what it is.
            SourceError: the iterable raised an error.
        """
        with self._handle.borrow() as pictures:
            if pictures is None:
                return None
            self._index += 1
            try:
                image = next(pictures)
            except StopIteration:
                return None
            except Exception as error:
                text = f"{self.name}: failed at frame {self._index}: {_told(error)}"
                raise SourceError(text) from error
            return _copied(image, "rgb", self._index, self.name)

    def close(self) -> None:
        """Let go of the iterator. A generator is not closed, for it is the caller's."""
        self._handle.close()


class ReaderSource(Source):
    """Pictures from an object with `read()`, such as a device driver or a `cv2.VideoCapture`.

    The object stays the caller's: it is neither opened nor closed here. Every picture is copied,
    since a driver may fill the same buffer again.

    Args:
        reader: `read()` returns an array, `(ok, array)`, or None at the end.
        color: order of three channels: "rgb", or "bgr" as OpenCV gives it.
        live: True when pictures that are not read in time are lost anyway.
        name: how to call it in results.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        color: ColorOrder = "rgb",
        live: bool = False,
        name: str | None = None,
    ) -> None:
        self.name = type(reader).__qualname__ if name is None else name
        self.live = live
        self._color = color
        self._reader = reader
        self._index = -1
        self._handle: Handle[Reader] = Handle(self.name)

    def open(self) -> None:
        """Check that a `cv2.VideoCapture` is open; other objects are taken to be.

        Raises:
            SourceError: it is not.
        """
        is_open = getattr(self._reader, "isOpened", None)
        if callable(is_open) and not is_open():
            raise SourceError(
                f"{self.name}: is not open; OpenCV is silent when it cannot open a file or device"
            )
        self._handle.open(lambda: (self._reader, lambda: None))

    def read(self) -> Frame | None:
        """Call `read()` once.

        Raises:
            FrameError: what it returned is no picture; the message says what it is.
            SourceError: it raised an error, or a live one says `(False, ...)`.
        """
        with self._handle.borrow() as reader:
            if reader is None:
                return None
            self._index += 1
            try:
                image = reader.read()
            except Exception as error:
                text = f"{self.name}: read() failed at frame {self._index}: {_told(error)}"
                raise SourceError(text) from error
            if isinstance(image, tuple) and len(image) == 2:
                image = image[1] if image[0] else None
                if image is None and self.live:
                    raise SourceError(
                        f"{self.name}: no frame came after {self._index}; the signal is lost"
                    )
            return None if image is None else _copied(image, self._color, self._index, self.name)

    def close(self) -> None:
        """Let go of the object, which stays open."""
        self._handle.close()


def _frame(image: NDArray[np.uint8], color: ColorOrder, index: int, source: str) -> Frame:
    captured_ns = time.monotonic_ns()
    return Frame(image, color if image.ndim == 3 else "gray", index, captured_ns, source)


def _copied(image: object, color: ColorOrder, index: int, source: str) -> Frame:
    captured_ns = time.monotonic_ns()
    try:
        picture = check_picture(image, f"{source}: frame {index}")
    except (InvalidImageError, InvalidImageTypeError) as error:
        raise FrameError(str(error)) from None
    kept = np.array(picture, order="C")
    return Frame(kept, color if kept.ndim == 3 else "gray", index, captured_ns, source)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
