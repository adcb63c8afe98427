"""TensorRT-RTX: portable computers with an RTX GPU."""

from __future__ import annotations

import logging
from typing import Any

from fetalclip_edge.backends.engine import EngineBackend

__all__ = ["TensorRTRTXBackend"]

_log = logging.getLogger("fetalclip_edge")


class TensorRTRTXBackend(EngineBackend):
    """Runs the bundle's graph with TensorRT-RTX, which finishes compiling as it loads."""

    name = "tensorrt_rtx"
    module = "tensorrt_rtx"
    install = 'pip install "fetalclip-edge[tensorrt-rtx]"'
    keeps_kernels = True

    @staticmethod
    def configure(trt: Any, config: Any) -> None:
        """Have engines use our memory alone, without which they cannot be recorded."""
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)

    @staticmethod
    def may_record(context: Any, stream: int) -> bool:
        """What TensorRT-RTX says of it."""
        return bool(context.is_stream_capturable(stream))

    @staticmethod
    def runtime_settings(trt: Any, engine: Any, kernels: bytes | None) -> Any:
        """Kernels that are made at once for the shapes to be seen, or taken from the last time."""
        settings = engine.create_runtime_config()
        # Otherwise they are made in the background, and the first frames, and what is recorded of
        # them, run on slower ones.
        strategies = trt.DynamicShapesKernelSpecializationStrategy
        settings.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        store = settings.create_runtime_cache()
        if kernels and not store.deserialize(kernels):
            _log.warning("TensorRT-RTX does not take the kernels that it made, and makes new ones")
        settings.set_runtime_cache(store)
        return settings

    @staticmethod
    def made_kernels(settings: Any) -> bytes:
        """What is in the runtime's cache now."""
        store = settings.get_runtime_cache()
        found = store.serialize()
        return b"" if found is None else bytes(found)

    @staticmethod
    def make_context(engine: Any, settings: Any) -> Any:
        """An execution context that shares the kernels of the others."""
        return engine.create_execution_context(settings)
