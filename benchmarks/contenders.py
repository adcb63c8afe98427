"""What the encoder benchmark sets side by side: a model in a runtime at a precision.

Nothing here imports PyTorch but for what needs it, so that the memory of a device's process is
that of its runtime.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.backends import BACKENDS, load_backend
from fetalclip_edge.backends.openvino import cpu_options
from fetalclip_edge.backends.openvino import import_runtime as import_openvino
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.errors import BackendError
from fetalclip_edge.tasks.biometry import HEAD_OUTPUT

__all__ = [
    "EMBEDDING_ALONE",
    "PUBLISHED_MODELS",
    "Contender",
    "Encode",
    "embedding_alone",
    "from_bundle",
    "in_openvino",
    "published",
]

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

PUBLISHED_MODELS = {
    "mobile-fetalclip": ("MobileFetalCLIP FastViT", 256),
    "fetalclip": ("FetalCLIP ViT-L/14", 224),
}
"""Name -> title and side of the input; with random weights, for which speed is the same."""


EMBEDDING_ALONE = ", embedding alone"
"""What the titles of graphs without the map of the head end in."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of the benchmark.

    Attributes:
        model: title of the model.
        runtime: a backend's name, "onnxruntime", or "open_clip eager".
        precision: of the weights and arithmetic.
        size: side of the input, in pixels.
        path: of the bundle or graph; a published model's name for open_clip.
        bundled: whether `path` is a bundle.
    """

    model: str
    runtime: str
    precision: str
    size: int
    path: str
    bundled: bool = False

    @property
    def name(self) -> str:
        """The row's title."""
        return f"{self.model}, {self.runtime}, {self.precision}"

    def to_dict(self) -> dict[str, Any]:
        """As plain values; `Contender(**values)` is the same again."""
        return asdict(self)

    def load(self, threads: int) -> Encode:
        """Make it ready for the first frame.

        Args:
            threads: of the CPU for one batch.

        Returns:
            Grey levels uint8 `(N, 1, S, S)` to embeddings `(N, D)`.

        Raises:
            BackendError: the runtime is missing or refuses the graph.
        """
        if self.bundled:
            bundle = ModelBundle.load(self.path)
            backend = load_backend(bundle, self.runtime, threads, self.precision)
            return lambda frames: backend.encode(frames)["embedding"]
        if self.runtime == "onnxruntime":
            return _in_onnxruntime(self.path, threads)
        return _eager(self.path, threads)

    def size_mb(self) -> float:
        """Of the graph, with weights; of the parameters in memory for open_clip."""
        if self.bundled:
            bundle = ModelBundle.load(self.path)
            return len(bundle.graph(self.runtime, self.precision)) / 1e6
        if self.runtime == "onnxruntime":
            parts = Path(self.path).parent.glob(f"{Path(self.path).name}*")
            return sum(part.stat().st_size for part in parts) / 1e6
        tower = _tower(self.path)
        return float(sum(p.numel() * p.element_size() for p in tower.parameters())) / 1e6

    def frames(self, count: int) -> NDArray[np.uint8]:
        """Grey levels of any kind, `(count, 1, S, S)`: speed does not depend on them."""
        rng = np.random.default_rng(0)
        return rng.integers(0, 256, (count, 1, self.size, self.size)).astype(np.uint8)


def from_bundle(folder: Path, threads: int) -> tuple[list[Contender], dict[str, str]]:
    """Every graph of a bundle in every backend that is installed here.

    Returns:
        The contenders, and what is left out -> why.
    """
    bundle = ModelBundle.load(folder)
    found, left_out = [], {}
    for backend in BACKENDS:
        for precision in bundle.graphs.get(backend, {}):
            one = Contender(
                bundle.name, backend, precision, bundle.preprocess.size, str(folder), True
            )
            try:
                one.load(threads)
            except BackendError as error:
                left_out[one.name] = str(error)
            else:
                found.append(one)
    for backend in bundle.graphs:
        if backend not in BACKENDS:
            left_out[f"{bundle.name}, {backend}"] = "this version has no such backend"
    return found, left_out


def embedding_alone(folder: Path, graphs: Path) -> list[Contender]:
    """A bundle's graphs for ONNX Runtime, cut to what the published models give: the embedding.

    Args:
        folder: of the bundle; one whose graphs give no map of the head has none to cut.
        graphs: folder for them.
    """
    import onnx
    from onnx.utils import Extractor

    bundle = ModelBundle.load(folder)
    found = []
    for precision in bundle.graphs.get("onnxruntime", {}):
        model = onnx.load_from_string(bundle.graph("onnxruntime", precision))
        if HEAD_OUTPUT not in [output.name for output in model.graph.output]:
            continue
        graphs.mkdir(parents=True, exist_ok=True)
        path = graphs / f"{bundle.name}.embedding.{precision}.onnx"
        onnx.save(Extractor(model).extract_model(["image"], ["embedding"]), path)
        title, size = bundle.name + EMBEDDING_ALONE, bundle.preprocess.size
        found.append(Contender(title, "onnxruntime", precision, size, str(path)))
    return found


def published(name: str, graphs: Path) -> list[Contender]:
    """A published architecture with random weights: in open_clip, and exported to ONNX.

    Args:
        name: a key of `PUBLISHED_MODELS`.
        graphs: folder of `NAME.onnx`; exported when it is not there, which takes minutes and
            12 GB of memory for FetalCLIP.
    """
    title, size = PUBLISHED_MODELS[name]
    path = graphs / f"{name}.onnx"
    if not path.is_file():
        _export(name, path)
    return [
        Contender(title, "open_clip eager", "fp32", size, name),
        Contender(title, "onnxruntime", "fp32", size, str(path)),
    ]


def _in_onnxruntime(path: str, threads: int) -> Encode:
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def encode(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run(["embedding"], {"image": frames})[0]
        return found

    return encode


def in_openvino(model: Any, shape: Sequence[int], threads: int) -> Encode:
    """A graph in OpenVINO, compiled as the SDK does it.

    Args:
        model: the graph's file, or OpenVINO's own model.
        shape: of what it is given each time, `(N, 1, S, S)`.
        threads: of the CPU.
    """
    core = import_openvino().Core()
    if isinstance(model, Path):
        model = core.read_model(model)
    model.reshape(list(shape))
    request = core.compile_model(model, "CPU", cpu_options(threads)).create_infer_request()

    def encode(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        request.infer([frames], share_inputs=True, share_outputs=True)
        found: NDArray[np.float32] = request.get_tensor("embedding").data
        return found.copy()

    return encode


def _tower(name: str) -> Any:
    """As `training.models` builds it, which is open_clip's class and configuration."""
    torch = importlib.import_module("torch")
    untrained = importlib.import_module("training.models.untrained")
    torch.manual_seed(0)
    return untrained.untrained_model(name).image.eval().requires_grad_(False)


def _eager(name: str, threads: int) -> Encode:
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    tower = _tower(name)

    def encode(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found: NDArray[np.float32] = tower(torch.from_numpy(frames).float()).numpy()
        return found

    return encode


def _export(name: str, path: Path) -> None:
    import onnx
    import torch

    from export.graph import export_core, with_grey_levels
    from export.published import PublishedTower
    from training.models.untrained import untrained_model

    torch.manual_seed(0)
    tower = PublishedTower(untrained_model(name).eval())
    path.parent.mkdir(parents=True, exist_ok=True)
    core = path.with_suffix(".core")
    export_core(tower, core)
    config = tower.config
    onnx.save(with_grey_levels(onnx.load(core), config.mean, config.std), path)
    core.unlink()
