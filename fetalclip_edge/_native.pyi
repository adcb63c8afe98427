"""The preprocessing in C++ (see cpp_ext/)."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

def instruction_sets() -> list[str]:
    """The instruction sets this machine can run ("portable", "avx2", "avx512"), the best last."""

class Resampler:
    """Pads a frame to a square, resizes it as Pillow does and normalises it.

    Keeps the weights of the last geometries and its working memory between calls. May be called
    from several threads at once; the GIL is released while it works.
    """

    def __init__(
        self,
        size: int,
        *,
        interpolation: str,
        channels: int,
        dtype: str,
        mean: Sequence[float],
        std: Sequence[float],
        instruction_set: str | None = None,
    ) -> None: ...
    @property
    def instruction_set(self) -> str: ...
    def __call__(
        self,
        image: object,
        color: object = "rgb",
        region: object = None,
        out: object = None,
    ) -> NDArray[Any]:
        """The model's input `(1, channels, size, size)`, in `out` when it is given.

        Raises:
            InvalidImageError: an argument's shape or value cannot be used.
            InvalidImageTypeError: an argument has the wrong type or dtype.
        """
