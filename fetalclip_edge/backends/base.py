"""What every backend can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.bundle import ModelBundle

__all__ = ["Backend"]


class Backend(ABC):
    """A graph loaded into a runtime.

    Attributes:
        name: what to call the backend in `fetalclip_edge.load(backend=...)`.
        version: of the runtime.
        precision: of the graph, such as "int8".
        device: what runs it, such as "cpu".
    """

    name: ClassVar[str]
    version: str
    precision: str
    device: str

    @abstractmethod
    def __init__(self, bundle: ModelBundle, *, threads: int) -> None:
        """Load the bundle's graph and run it once.

        Raises:
            BackendError: the runtime cannot load or run it.
        """

    @abstractmethod
    def encode(self, inputs: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Run the graph on a batch.

        Args:
            inputs: `(N, C, S, S)` in the type that the bundle's preprocessing gives.

        Returns:
            The graph's outputs by name; `embedding` is `(N, D)`, L2-normalised.

        Raises:
            BackendError: the runtime failed.
        """
