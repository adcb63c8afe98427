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

    def _make_context(self) -> Any:
        config = self._engine.create_runtime_config()
        # Otherwise the kernels for a shape are made in the background, and the first frames, and
        # what is recorded of them, run on slower ones.
        strategies = self._trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return self._engine.create_execution_context(config)
