"""Backends that compile the graph into an engine for this GPU: TensorRT and TensorRT-RTX."""

from __future__ import annotations

import functools
import hashlib
import importlib
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.backends.base import Backend
from fetalclip_edge.backends.signature import Signature, blank_frame
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.engines.bar import compiling_bar
from fetalclip_edge.engines.build import MAX_BATCH, Progress, compile_engine, make_log
from fetalclip_edge.engines.cache import CachedEngine, EngineCache, EngineKey
from fetalclip_edge.engines.cuda import Cuda
from fetalclip_edge.engines.session import Layout, Session
from fetalclip_edge.errors import BackendError, BackendUnavailableError, FetalCLIPEdgeError

__all__ = ["EngineBackend"]

_log = logging.getLogger("fetalclip_edge")


class EngineBackend(Backend):
    """Runs the bundle's graph, compiled for the first GPU of this machine.

    The engine is compiled on first use and cached (see `fetalclip_edge.engines.cache`). Each thread
    has an execution context, a stream and memory of its own, made when it encodes first; they end
    with the thread.

    Attributes:
        module: the Python module of the runtime.
        install: how to get it.
        keeps_kernels: whether the runtime compiles as it loads an engine, and what it made is kept.
    """

    module: ClassVar[str]
    install: ClassVar[str]
    keeps_kernels: ClassVar[bool] = False

    def __init__(self, bundle: ModelBundle, *, threads: int, precision: str | None = None) -> None:
        self.precision = bundle.precision(self.name, precision)
        self._trt, self._cuda = self._open()
        self.version = str(self._trt.__version__)
        self.device = self._cuda.gpu.name
        self._failing = _Named(f"{self.module} {self.version} failed")
        path = bundle.folder / bundle.graphs[self.name][self.precision]
        with _Named(f"{self.module} {self.version} cannot run {path}"):
            self._prepare(bundle, path)

    def encode(
        self, inputs: NDArray[Any], out: Mapping[str, NDArray[np.float32]] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Run the graph on a batch `(N, C, S, S)`, in pieces where it is larger than 8."""
        self.signature.check(inputs, out)
        if out is None:
            out = {
                name: np.empty((len(inputs), *shape), np.float32)
                for name, shape in self.signature.outputs.items()
            }
        with self._failing:
            for start in range(0, len(inputs), self._layout.most):
                part = slice(start, start + self._layout.most)
                self._run(inputs[part], {name: a[part] for name, a in out.items()})
        return dict(out)

    @classmethod
    def compile(
        cls,
        bundle: ModelBundle,
        precision: str | None = None,
        *,
        progress: Progress | None = None,
        cache: EngineCache | None = None,
    ) -> CachedEngine:
        """Get the engine for this GPU from the cache, or compile it. Takes seconds to minutes.

        Args:
            bundle: whose graph.
            precision: of the graph, or None for the first that the bundle has for this backend.
            progress: told how far it is.
            cache: where engines are kept, or None for the user's.

        Raises:
            BackendUnavailableError: the runtime or a GPU is missing.
            BackendError: the graph cannot be compiled, or the cache's folder is not safe.
            BundleError: the bundle has no such graph.
        """
        precision = bundle.precision(cls.name, precision)
        trt, cuda = cls._open()
        with _Named(f"{cls.module} {trt.__version__} cannot compile {bundle.name} {precision}"):
            return cls._compile(trt, cuda, bundle, precision, progress, cache or EngineCache())[0]

    @classmethod
    def _compile(
        cls,
        trt: Any,
        cuda: Cuda,
        bundle: ModelBundle,
        precision: str,
        progress: Progress | None,
        cache: EngineCache,
    ) -> tuple[CachedEngine, EngineKey]:
        graph = bundle.graph(cls.name, precision)
        path = bundle.folder / bundle.graphs[cls.name][precision]
        spec, gpu = bundle.preprocess, cuda.gpu
        frame = f"{spec.channels}x{spec.size}x{spec.size}"
        key = EngineKey(
            graph_sha256=hashlib.sha256(graph).hexdigest(),
            precision=precision,
            shapes=f"1x{frame} 1x{frame} {MAX_BATCH}x{frame}",
            runtime=f"{cls.name} {trt.__version__}",
            gpu=gpu.name,
            capability=gpu.capability,
            driver=gpu.driver,
        )

        def build() -> bytes:
            if progress is not None:
                return built(progress)
            _log.warning(
                "compiling %s for %s: seconds to minutes, once; "
                "fetalclip-edge compile does it ahead of the first frame",
                *(path, gpu.name),
            )
            with compiling_bar(f"compiling {precision} with {cls.name}, once") as bar:
                return built(bar)

        def built(told: Progress) -> bytes:
            configure = functools.partial(cls.configure, trt)
            return compile_engine(trt, graph, str(path), progress=told, configure=configure)

        def waiting() -> None:
            if progress is not None:
                progress("another process is compiling it", 0.0)
            _log.info("another process or thread is compiling %s", path)

        return cache.get(key, build, waiting), key

    @classmethod
    def _open(cls) -> tuple[Any, Cuda]:
        """The runtime's module and the GPU."""
        cuda = Cuda()  # before the runtime, which is some hundred megabytes
        return cls.import_runtime(), cuda

    @classmethod
    def import_runtime(cls) -> Any:
        """The runtime's Python module.

        Raises:
            BackendUnavailableError: it is not installed.
        """
        try:
            return importlib.import_module(cls.module)
        except ImportError as error:
            raise BackendUnavailableError(
                f"{cls.module} is not installed or does not load ({error}): {cls.install}"
            ) from error

    def _load(self, bundle: ModelBundle) -> tuple[Any, EngineKey]:
        cache = self._cache
        found, key = self._compile(self._trt, self._cuda, bundle, self.precision, None, cache)
        engine = self._runtime.deserialize_cuda_engine(found.data)
        if engine is None and not found.compiled:
            # Its checksum is right, and still this runtime does not take it.
            _log.warning("%s does not load: %s", found.path, self._runtime_log.why())
            cache.discard(key)
            found, key = self._compile(self._trt, self._cuda, bundle, self.precision, None, cache)
            engine = self._runtime.deserialize_cuda_engine(found.data)
        if engine is None:
            raise BackendError(
                f"{self.module} {self.version} does not load the engine that it compiled: "
                f"{self._runtime_log.why()}"
            )
        return engine, key

    def _prepare(self, bundle: ModelBundle, path: Path) -> None:
        self._runtime_log = make_log(self._trt)
        self._runtime = self._trt.Runtime(self._runtime_log.sink)
        self._cache = EngineCache()
        self._engine, self._key = self._load(bundle)
        self._kernels = self._cache.kernels(self._key) if self.keeps_kernels else None
        self._settings = self.runtime_settings(self._trt, self._engine, self._kernels)
        self._layout = Layout.of(self._trt, self._engine)
        blank = blank_frame(bundle)
        if self._layout.image.shape != blank.shape[1:] or self._layout.image.dtype != blank.dtype:
            raise BackendError(
                f"{path} takes {self._layout.image.dtype} {self._layout.image.shape}, and the "
                f"manifest's preprocessing gives {blank.dtype} {blank.shape[1:]}"
            )
        self._sessions, self._making = threading.local(), threading.Lock()
        first = {
            tensor.name: np.empty((1, *tensor.shape), np.float32) for tensor in self._layout.outputs
        }
        self._run(blank, first)
        self.signature = Signature.of(bundle, path, first)

    @staticmethod
    def configure(trt: Any, config: Any) -> None:
        """Set more of a builder's configuration, where the runtime `trt` needs it."""

    @staticmethod
    def may_record(context: Any, stream: int) -> bool:
        """Whether the work of a context, once it has run, may be recorded as a CUDA graph."""
        return True

    @staticmethod
    def runtime_settings(trt: Any, engine: Any, kernels: bytes | None) -> Any:
        """How an engine's contexts shall run, where the runtime `trt` asks; None where not.

        Args:
            trt: the runtime's module.
            engine: its engine.
            kernels: that were kept of this engine; None of none.
        """
        return None

    @staticmethod
    def made_kernels(settings: Any) -> bytes:
        """The kernels that contexts of these settings have made so far."""
        return b""

    @staticmethod
    def make_context(engine: Any, settings: Any) -> Any:
        """An execution context of an engine; None when the runtime gives none."""
        return engine.create_execution_context()

    def _run(self, piece: NDArray[Any], out: Mapping[str, NDArray[np.float32]]) -> None:
        session, is_new = self._session(len(piece))
        session.run(piece, out)
        if is_new and self.keeps_kernels:
            with self._making:
                made = self.made_kernels(self._settings)
                if made != self._kernels:
                    self._cache.keep_kernels(self._key, made)
                    self._kernels = made

    def _session(self, batch: int) -> tuple[Session, bool]:
        """This thread's session: one for single frames, replayed, and one for larger batches.

        Returns:
            The session, and whether it was made just now.
        """
        kind = "one" if batch == 1 else "several"
        session: Session | None = getattr(self._sessions, kind, None)
        is_new = session is None
        if session is None:
            with self._making:
                context = self.make_context(self._engine, self._settings)
            if context is None:
                raise BackendError(f"no execution context: {self._runtime_log.why()}")
            most = 1 if batch == 1 else self._layout.most
            session = Session(
                self._cuda,
                context,
                self._layout,
                most,
                record=self.may_record if batch == 1 else None,
            )
            setattr(self._sessions, kind, session)
        return session, is_new


class _Named:
    """Gives what TensorRT's bindings raise a name: pybind11's, such as a TypeError for null."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, FetalCLIPEdgeError):
            raise BackendError(f"{self._what}: {type(error).__name__}: {error}") from error
