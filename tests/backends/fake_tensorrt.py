"""Stands in for `tensorrt` and `tensorrt_rtx`, over the fake GPU: ONNX Runtime does the work.

It has the names that the package uses and no others; `test_tensorrt_names.py` holds them against
those of the real bindings. `__slots__` refuse attributes that pybind11's classes would refuse too.
"""

from __future__ import annotations

import ctypes
import enum
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from .fake_cuda import FakeCuda, inside

MAGIC = b"an engine of the fake "
KERNELS = b"kernels of the fake "


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        self._made = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None:
        self._made = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    FLOAT = np.float32
    HALF = np.float16
    UINT8 = np.uint8


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    EAGER = 1


class ITensor:
    __slots__ = ("name", "shape")

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, shape


class INetworkDefinition:
    __slots__ = ("_model",)

    def __init__(self) -> None:
        self._model: onnx.ModelProto | None = None

    @property
    def num_inputs(self) -> int:
        assert self._model is not None
        return len(self._model.graph.input)

    def get_input(self, index: int) -> ITensor:
        assert self._model is not None
        value = self._model.graph.input[index]
        shape = tuple(d.dim_value or -1 for d in value.type.tensor_type.shape.dim)
        return ITensor(value.name, shape)


class ParserError:
    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text


class OnnxParser:
    __slots__ = ("_errors", "_network")

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        assert logger._made
        self._network = network
        self._errors: list[ParserError] = []

    def parse(self, model: bytes) -> bool:
        try:
            parsed = onnx.load_from_string(model)
            onnx.checker.check_model(parsed)
        except Exception as error:
            self._errors.append(ParserError(f"In node 0 with\nname: {error}"))
            return False
        for node in parsed.graph.node:
            if node.domain not in ("", "ai.onnx"):
                self._errors.append(ParserError(f"No importer registered for op: {node.op_type}"))
                return False
        self._network._model = parsed
        return True

    def parse_from_file(self, model: str) -> bool:
        with open(model, "rb") as file:  # noqa: PTH123
            return self.parse(file.read())

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


class IOptimizationProfile:
    __slots__ = ("_shapes",)

    def __init__(self) -> None:
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(
        self, name: str, least: tuple[int, ...], opt: tuple[int, ...], most: tuple[int, ...], /
    ) -> None:
        assert all(a <= b <= c for a, b, c in zip(least, opt, most, strict=True))
        self._shapes[name] = [least, opt, most]


class BuilderFlag(enum.Enum):
    REQUIRE_USER_ALLOCATION = 1


class IBuilderConfig:
    __slots__ = ("_flags", "_profiles", "progress_monitor")

    def __init__(self) -> None:
        self._flags: list[BuilderFlag] = []
        self._profiles: list[IOptimizationProfile] = []
        self.progress_monitor: IProgressMonitor | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        assert pool is MemoryPoolType.WORKSPACE
        assert pool_size > 0

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.append(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1


class FakeTensorRT(ModuleType):
    """The module. What tests look at begins with an underscore.

    Args:
        cuda: the GPU.
        name: "tensorrt" or "tensorrt_rtx".
        version: of it.
    """

    ILogger = ILogger
    IProgressMonitor = IProgressMonitor
    NetworkDefinitionCreationFlag = NetworkDefinitionCreationFlag
    MemoryPoolType = MemoryPoolType
    TensorIOMode = TensorIOMode
    OnnxParser = OnnxParser

    def __init__(self, cuda: FakeCuda, name: str, version: str) -> None:
        super().__init__(name)
        self.__version__ = version
        self._cuda = cuda
        self._rtx = name == "tensorrt_rtx"
        self._built = 0
        self._contexts = 0
        self._kernels = 0
        self._refuses: str | None = None
        self._loads = True
        self._capturable = True
        fake = self

        class Builder:
            __slots__ = ("_logger",)

            def __init__(self, logger: ILogger) -> None:
                assert logger._made
                self._logger = logger

            def create_network(self, flags: int = 0) -> INetworkDefinition:
                assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
                return INetworkDefinition()

            def create_builder_config(self) -> IBuilderConfig:
                return IBuilderConfig()

            def create_optimization_profile(self) -> IOptimizationProfile:
                return IOptimizationProfile()

            def build_serialized_network(
                self, network: INetworkDefinition, config: IBuilderConfig
            ) -> bytearray | None:
                return fake._build(self._logger, network, config)

        class Runtime:
            __slots__ = ("_logger",)

            def __init__(self, logger: ILogger) -> None:
                self._logger = logger

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
                start = MAGIC + fake.__version__.encode() + b"\n"
                if not serialized_engine.startswith(start) or not fake._loads:
                    self._logger.log(Severity.ERROR, "Serialization assertion\nfailed")
                    return None
                return engine_class(fake)(serialized_engine.removeprefix(start))

        self.Builder, self.Runtime = Builder, Runtime
        if self._rtx:
            self.BuilderFlag = BuilderFlag
            self.DynamicShapesKernelSpecializationStrategy = (
                DynamicShapesKernelSpecializationStrategy
            )

    def nptype(self, trt_type: DataType) -> Any:
        return trt_type.value

    def _build(
        self, logger: ILogger, network: INetworkDefinition, config: IBuilderConfig
    ) -> bytearray | None:
        if self._refuses is not None:
            logger.log(Severity.ERROR, self._refuses)
            return None
        model = network._model
        assert model is not None
        free = any(not d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
        assert not free or config._profiles, "a free dimension needs an optimisation profile"
        assert config._flags == ([BuilderFlag.REQUIRE_USER_ALLOCATION] if self._rtx else [])
        monitor = config.progress_monitor
        if monitor is not None:
            monitor.phase_start("Building engine", None, 4)
            for step in range(4):
                monitor.phase_start("Timing", "Building engine", 2)
                assert monitor.step_complete("Timing", 0)
                assert monitor.step_complete("Timing", 1)
                monitor.phase_finish("Timing")
                assert monitor.step_complete("Building engine", step)
            monitor.phase_finish("Building engine")
        self._built += 1
        start = MAGIC + self.__version__.encode() + b"\n"
        return bytearray(start + model.SerializeToString())


class IRuntimeCache:
    """What was made for each shape, as text."""

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: set[str] = set()

    def serialize(self) -> bytearray:
        return bytearray(KERNELS + "|".join(sorted(self._made)).encode())

    def deserialize(self, serialized_cache: bytes) -> bool:
        if not serialized_cache.startswith(KERNELS):
            return False
        self._made |= set(serialized_cache.removeprefix(KERNELS).decode().split("|"))
        return True


class IRuntimeConfig:
    __slots__ = ("_store", "dynamic_shapes_kernel_specialization_strategy")

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> None:
        self._store = cache

    def get_runtime_cache(self) -> IRuntimeCache:
        return self._store


def engine_class(fake: FakeTensorRT) -> Any:
    """ICudaEngine of TensorRT, or of TensorRT-RTX, which has more names."""

    class ICudaEngine:
        def __init__(self, graph: bytes) -> None:
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            self._session = ort.InferenceSession(graph, options, ["CPUExecutionProvider"])
            self._tensors = [*self._session.get_inputs(), *self._session.get_outputs()]
            self._by_name = {tensor.name: tensor for tensor in self._tensors}

        @property
        def num_io_tensors(self) -> int:
            return len(self._tensors)

        def get_tensor_name(self, index: int) -> str:
            return str(self._tensors[index].name)

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            is_input = name in [value.name for value in self._session.get_inputs()]
            return TensorIOMode.INPUT if is_input else TensorIOMode.OUTPUT

        def get_tensor_shape(self, name: str) -> list[int]:
            return [d if isinstance(d, int) else -1 for d in self._by_name[name].shape]

        def get_tensor_dtype(self, name: str) -> DataType:
            types = {"float": "FLOAT", "float16": "HALF", "uint8": "UINT8"}
            return DataType[types[self._by_name[name].type[7:-1]]]

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
            assert profile_index == 0
            rest = self.get_tensor_shape(name)[1:]
            return [[1, *rest], [1, *rest], [8, *rest]]

        def create_execution_context(self, config: IRuntimeConfig | None = None) -> Any:
            assert (config is not None) == fake._rtx
            fake._contexts += 1
            if config is None:
                return IExecutionContext(fake._cuda, self, fake._capturable)
            return RTXExecutionContext(fake._cuda, self, fake._capturable, fake, config._store)

    if fake._rtx:
        ICudaEngine.create_runtime_config = lambda self: IRuntimeConfig()  # type: ignore[attr-defined]
    return ICudaEngine


class IExecutionContext:
    __slots__ = ("_addresses", "_capturable", "_cuda", "_engine", "_input", "_shape")

    def __init__(self, cuda: FakeCuda, engine: Any, capturable: bool) -> None:
        self._cuda, self._engine, self._capturable = cuda, engine, capturable
        self._addresses: dict[str, int] = {}
        [self._input] = engine._session.get_inputs()
        self._shape: tuple[int, ...] | None = None

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert name in self._engine._by_name
        self._addresses[name] = memory
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == self._input.name
        if not 1 <= shape[0] <= 8 or list(shape[1:]) != self._input.shape[1:]:
            return False
        self._shape = shape
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self._shape is not None, "no input shape"
        assert set(self._addresses) == set(self._engine._by_name), "a tensor has no memory"
        shape, addresses = self._shape, dict(self._addresses)

        def work() -> None:
            size = int(np.prod(shape))
            inside(self._cuda._device, addresses[self._input.name], size)
            data = ctypes.string_at(addresses[self._input.name], size)
            inputs = np.frombuffer(data, np.uint8).reshape(shape)
            names = [output.name for output in self._engine._session.get_outputs()]
            values = self._engine._session.run(names, {self._input.name: inputs})
            for name, value in zip(names, values, strict=True):
                inside(self._cuda._device, addresses[name], value.nbytes)
                ctypes.memmove(addresses[name], value.tobytes(), value.nbytes)

        self._cuda._enqueue(stream_handle, work)
        return True


class RTXExecutionContext(IExecutionContext):
    __slots__ = ("_fake", "_store")

    def __init__(
        self, cuda: FakeCuda, engine: Any, capturable: bool, fake: Any, store: IRuntimeCache
    ) -> None:
        super().__init__(cuda, engine, capturable)
        self._fake, self._store = fake, store

    def execute_async_v3(self, stream_handle: int) -> bool:
        if str(self._shape) not in self._store._made:
            self._fake._kernels += 1
            self._store._made.add(str(self._shape))
        return super().execute_async_v3(stream_handle)

    def is_stream_capturable(self, stream: int) -> bool:
        assert stream in self._cuda._streams
        return self._capturable


def install(monkeypatch: Any) -> SimpleNamespace:
    """Put a fake GPU and both runtimes where `import` finds them."""
    cuda = FakeCuda()
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = cuda  # type: ignore[attr-defined]
    package = ModuleType("cuda")
    package.bindings = bindings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", package)
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    found = SimpleNamespace(cuda=cuda)
    for name, version in (("tensorrt", "10.3.0"), ("tensorrt_rtx", "1.7.1.116")):
        module = FakeTensorRT(cuda, name, version)
        monkeypatch.setitem(sys.modules, name, module)
        setattr(found, name, module)
    return found
