"""TensorRT-RTX: portable computers with an RTX GPU."""

from __future__ import annotations

from typing import Any

from fetalclip_edge.backends.engine import EngineBackend

__all__ = ["TensorRTRTXBackend"]


class TensorRTRTXBackend(EngineBackend):
    """Runs the bundle's graph with TensorRT-RTX, which finishes compiling as it loads."""

    name = "tensorrt_rtx"
    module = "tensorrt_rtx"
    install = 'pip install "fetalclip-edge[tensorrt-rtx]"'

    @staticmethod
    def configure(trt: Any, config: Any) -> None:
        """Have engines use our memory alone, without which they cannot be recorded."""
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)

    @staticmethod
    def may_record(context: Any, stream: int) -> bool:
        """What TensorRT-RTX says of it."""
        return bool(context.is_stream_capturable(stream))

    @staticmethod
    def make_context(trt: Any, engine: Any) -> Any:
        """An execution context whose kernels are made now, for the shapes that it will see."""
        config = engine.create_runtime_config()
        # Otherwise they are made in the background, and the first frames, and what is recorded of
        # them, run on slower ones.
        strategies = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return engine.create_execution_context(config)
