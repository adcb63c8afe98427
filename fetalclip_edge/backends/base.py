"""What every backend can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.backends.signature import Signature
from fetalclip_edge.bundle import ModelBundle

__all__ = ["Backend"]


class Backend(ABC):
    """A graph loaded into a runtime.

    Attributes:
        name: what to call the backend in `fetalclip_edge.load(backend=...)`.
        version: of the runtime.
        precision: of the graph, such as "int8".
        device: what runs it, such as "cpu".
        signature: what the graph takes and gives.
    """

    name: ClassVar[str]
    version: str
    precision: str
    device: str
    signature: Signature

    @abstractmethod
    def __init__(self, bundle: ModelBundle, *, threads: int, precision: str | None = None) -> None:
        """Load the bundle's graph and run it once.

        Args:
            bundle: what to run.
            threads: CPU threads for one frame.
            precision: of the graph, or None for the first that the bundle has for this backend.

        Raises:
            BackendUnavailableError: the runtime is not installed.
            BackendError: it cannot load or run the graph.
            BundleError: the bundle has no such graph.
        """

    @abstractmethod
    def encode(
        self, inputs: NDArray[Any], out: Mapping[str, NDArray[np.float32]] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Run the graph on a batch. Several threads may do so at once.

        Args:
            inputs: `(N, C, S, S)` in the type that the bundle's preprocessing gives.
            out: name -> C-contiguous float32 array of the output's shape, to write into; outputs
                that it lacks are not handed over. None makes new arrays of all.

        Returns:
            The graph's outputs by name, or `out`'s arrays; `embedding` is `(N, D)`, L2-normalised.

        Raises:
            BackendError: the runtime failed, or an array of `out` does not fit.
        """
