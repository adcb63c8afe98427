"""TensorRT: NVIDIA Jetson, whose JetPack brings it, and workstations."""

from __future__ import annotations

from fetalclip_edge.backends.engine import EngineBackend

__all__ = ["TensorRTBackend"]


class TensorRTBackend(EngineBackend):
    """Runs the bundle's graph with TensorRT 10.3 (JetPack 6), 10.13 (JetPack 7) or 11."""

    name = "tensorrt"
    module = "tensorrt"
    install = (
        "on a Jetson it comes with JetPack (sudo apt install nvidia-jetpack) and is seen from a "
        "virtual environment made with --system-site-packages; elsewhere: pip install tensorrt"
    )
