"""Engines on a GPU, step by step, beside torch: `python -m benchmarks.gpu gpu.json`.

For TensorRT-RTX and TensorRT: import, build, deserialise, execute, agreement with ONNX Runtime on
frames of the shipped clip, latency of FP32, FP16 and INT8. Then torch in FP16 with CUDA graphs.
What cannot be done here is reported as refused, with the reason, and the rest goes on. Each runtime
has a process of its own: one that crashes on a GPU it does not know takes nothing else with it.
`benchmarks/gpu.sh` installs what it needs and runs it.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import onnxruntime as ort
import typer
from numpy.typing import NDArray
from rich.console import Console

from fetalclip_edge.backends.tensorrt import TensorRTBackend
from fetalclip_edge.backends.tensorrt_rtx import TensorRTRTXBackend
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.cosines import row_cosines
from fetalclip_edge.demo import DEMO_CLIP
from fetalclip_edge.engines.build import MAX_BATCH, compile_engine, make_log
from fetalclip_edge.engines.cuda import Cuda
from fetalclip_edge.engines.session import Layout, Session
from fetalclip_edge.machine import describe_machine
from fetalclip_edge.preprocess import Preprocessor

__all__ = ["Steps", "measure_engine", "measure_torch"]

_RELEASE = Path(__file__).resolve().parent.parent / "training" / "released" / "student"
_ENGINES = {"tensorrt_rtx": TensorRTRTXBackend, "tensorrt": TensorRTBackend}
_PRECISIONS = ("fp32", "fp16", "int8")
_WARM_UP, _ROUNDS = 50, 500
_SECONDS = 80
"""After which a runtime is given up: all seven together end within ten minutes."""


class Steps:
    """What was tried, in order. After one that is refused, none is tried any more."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []

    @property
    def refused(self) -> bool:
        """Whether a step was."""
        return bool(self.done) and self.done[-1]["status"] == "refused"

    def take(self, name: str, work: Callable[[], Any]) -> Any:
        """Do a step, unless one before was refused.

        Returns:
            What the step gave, or None.
        """
        if self.refused:
            return None
        begin, found, reason = time.perf_counter(), None, None
        try:
            found = work()
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        step = {"step": name, "status": "refused" if reason else "ok"}
        self.done.append(
            step
            | ({"reason": reason} if reason else {})
            | {"seconds": round(time.perf_counter() - begin, 3)}
        )
        return found


def measure_engine(runtime: str, graph: Path, frames: NDArray[np.uint8]) -> dict[str, Any]:
    """Try one graph with one runtime, as far as it goes.

    Args:
        runtime: "tensorrt" or "tensorrt_rtx".
        graph: ONNX with the input `image` and the output `embedding`.
        frames: uint8 `(N, 1, S, S)`, at least 8.
    """
    steps, report = Steps(), dict[str, Any]()
    trt = steps.take("import", lambda: importlib.import_module(runtime))
    data = steps.take("build", lambda: _build(runtime, trt, graph))
    cuda = steps.take("gpu", Cuda)
    loaded = steps.take("deserialise", lambda: _deserialise(trt, data))
    sessions = steps.take("load", lambda: _sessions(runtime, trt, cuda, loaded[1]))
    embeddings = steps.take("execute", lambda: _encode(sessions[0], frames))
    wanted = steps.take("reference", lambda: _reference(graph, frames))
    if not steps.refused:
        report = {
            "version": str(trt.__version__),
            "gpu": cuda.gpu.name,
            "capability": cuda.gpu.capability,
            "driver": cuda.gpu.driver,
            "engine_mb": len(data) / 1e6,
            "cuda_graph": sessions[0].recorded,
            "cosine": _cosines(embeddings, wanted),
            "batch_1": _latency(lambda: _encode(sessions[0], frames[:1])),
            "batch_8": _latency(lambda: sessions[1].run(frames[:MAX_BATCH], {})),
        }
    return {"steps": steps.done, **report}


def measure_torch(frames: NDArray[np.uint8]) -> dict[str, Any]:
    """The released student in torch, FP16, single frames replayed from a CUDA graph."""
    steps, report = Steps(), dict[str, Any]()
    torch = steps.take("import", lambda: importlib.import_module("torch"))
    steps.take("gpu", lambda: torch.cuda.init())
    tower = steps.take("load", _load_tower)
    replay = steps.take("execute", lambda: _record(torch, tower, frames))
    embeddings = steps.take(
        "replay", lambda: np.stack([replay(frames[i : i + 1])[0] for i in range(len(frames))])
    )
    if not steps.refused:
        with torch.inference_mode():
            expected = _load_tower()(torch.from_numpy(frames).float()).numpy()
        report = {
            "version": torch.__version__,
            "gpu": torch.cuda.get_device_name(),
            "cosine": _cosines(embeddings, expected),
            "batch_1": _latency(lambda: replay(frames[:1])),
        }
    return {"steps": steps.done, **report}


def _build(name: str, trt: Any, graph: Path) -> bytes:
    return compile_engine(
        *(trt, graph.read_bytes(), graph.name),
        configure=lambda config: _ENGINES[name].configure(trt, config),
    )


def _deserialise(trt: Any, data: bytes) -> Any:
    log = make_log(trt)
    runtime = trt.Runtime(log.sink)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise RuntimeError(log.why())
    return runtime, engine  # the one must live as long as the other


def _sessions(name: str, trt: Any, cuda: Cuda, engine: Any) -> tuple[Session, Session]:
    layout, backend = Layout.of(trt, engine), _ENGINES[name]
    settings = backend.runtime_settings(trt, engine, None)
    first, second = (backend.make_context(engine, settings) for _ in range(2))
    return (
        Session(cuda, first, layout, 1, record=backend.may_record),
        Session(cuda, second, layout, MAX_BATCH, record=None),
    )


def _encode(session: Session, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    width = session.output_shape("embedding")[0]
    embeddings = np.empty((len(frames), width), np.float32)
    for index in range(len(frames)):
        part = slice(index, index + 1)
        session.run(frames[part], {"embedding": embeddings[part]})
    return embeddings


def _reference(graph: Path, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """By ONNX Runtime, as the graph is written: integer kernels of CPUs round otherwise."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(["embedding"], {"image": frames})[0]
    return found


def _load_tower() -> Any:
    from training.release import load_release

    return load_release(_RELEASE).tower.eval()


def _record(
    torch: Any, tower: Any, frames: NDArray[np.uint8]
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    tower = tower.cuda().half()
    host = torch.zeros(frames[:1].shape, dtype=torch.uint8).pin_memory()
    device = torch.zeros(frames[:1].shape, dtype=torch.uint8, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                tower(device.half())
        side.synchronize()
        with torch.cuda.graph(graph):
            device.copy_(host, non_blocking=True)
            embedding = tower(device.half())

    def replay(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        host.numpy()[:] = frame
        graph.replay()
        found: NDArray[np.float32] = embedding.float().cpu().numpy()
        return found

    return replay


def _latency(run: Callable[[], object]) -> dict[str, float]:
    for _ in range(_WARM_UP):
        run()
    samples = np.empty(_ROUNDS)
    for index in range(_ROUNDS):
        begin = time.perf_counter()
        run()
        samples[index] = 1e3 * (time.perf_counter() - begin)
    p50, p95, p99 = np.percentile(samples, [50, 95, 99])
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": float(samples.max())}


def _cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> dict[str, float]:
    cosines = row_cosines(one, other)
    return {"mean": float(cosines.mean()), "min": float(cosines.min())}


def _frames(bundle: ModelBundle, count: int = 32) -> NDArray[np.uint8]:
    prepare = Preprocessor(bundle.preprocess)
    with av.open(str(DEMO_CLIP)) as container:
        decoded = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    return np.concatenate([prepare(image).copy() for image in decoded[:count]])


def _find_graphs(bundle: ModelBundle, given: list[str], work: Path) -> dict[str, Path]:
    """Precision -> graph: those given, those of the bundle, and FP32 as exported now."""
    graphs: dict[str, Path] = {}
    for runtime in _ENGINES:
        for precision, name in bundle.graphs.get(runtime, {}).items():
            graphs.setdefault(precision, bundle.folder / name)
    for text in given:
        precision, _, path = text.partition("=")
        if precision not in _PRECISIONS or not Path(path).is_file():
            raise typer.BadParameter(
                f"--graph must be {' or '.join(_PRECISIONS)}=FILE, not {text!r}"
            )
        graphs[precision] = Path(path)
    if "fp32" not in graphs:
        graphs["fp32"] = _export_fp32(work / "fp32.onnx")
    return {precision: graphs[precision] for precision in _PRECISIONS if precision in graphs}


def _export_fp32(path: Path) -> Path:
    import onnx

    from export.graph import export_core, with_grey_levels
    from training.release import load_release

    release = load_release(_RELEASE)
    export_core(release.tower, path)
    onnx.save(with_grey_levels(onnx.load(path), release.config.mean, release.config.std), path)
    return path


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[Path, typer.Argument(metavar="OUT.json", help="Where to write the report")],
    graph: Annotated[
        list[str] | None,
        typer.Option(metavar="PRECISION=FILE", help="A graph in place of the bundle's, e.g. fp16="),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Model bundle, in place of the shipped one")
    ] = None,
) -> None:
    """Try engines and torch on this machine's GPU and write a report in JSON, as it comes.

    Example: python -m benchmarks.gpu gpu.json --graph fp16=encoder.fp16.onnx
    """
    console = Console(stderr=True, highlight=False)
    checked = ModelBundle.load(bundle)
    report: dict[str, Any] = {"machine": describe_machine(), "nvidia_smi": _nvidia_smi()}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        np.save(work / "frames.npy", _frames(checked))
        graphs = _find_graphs(checked, graph or [], work)
        for runtime in _ENGINES:
            report[runtime] = {}
            for precision in _PRECISIONS:
                if precision not in graphs:
                    found: dict[str, Any] = {
                        "skipped": f"no {precision} graph; give --graph {precision}=FILE"
                    }
                else:
                    found = _apart(runtime, str(graphs[precision]), str(work / "frames.npy"))
                report[runtime][precision] = found
                _write(out, report)  # what comes after may hang
                console.print(f"{runtime} {precision}: {_in_short(found)}", soft_wrap=True)
        report["torch"] = {"fp16": _apart("torch", "", str(work / "frames.npy"))}
        _write(out, report)
        console.print(f"torch fp16: {_in_short(report['torch']['fp16'])}", soft_wrap=True)


def _write(out: Path, report: dict[str, Any]) -> None:
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _apart(runtime: str, graph: str, frames: str) -> dict[str, Any]:
    """Measure in a process of its own."""
    code = (
        "import sys; from benchmarks.gpu import measure_and_print; measure_and_print(*sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, runtime, graph, frames]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        reason = f"it took more than {_SECONDS} s"
    else:
        if done.returncode == 0:
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found
        last = (done.stderr.strip().splitlines() or [""])[-1]
        reason = f"the process ended with {done.returncode}: {last}"
    return {"steps": [{"step": "process", "status": "refused", "reason": reason}]}


def measure_and_print(runtime: str, graph: str, frames: str) -> None:
    """What the process of one runtime does."""
    loaded = np.load(frames, allow_pickle=False)
    if runtime == "torch":
        found = measure_torch(loaded)
    else:
        found = measure_engine(runtime, Path(graph), loaded)
    print(json.dumps(found), flush=True)


def _in_short(found: dict[str, Any]) -> str:
    if "skipped" in found:
        return f"skipped, {found['skipped']}"
    last = found["steps"][-1]
    if last["status"] == "refused":
        return f"refused at {last['step']}: {last['reason']}"
    return f"{found['batch_1']['p50_ms']:.3f} ms, cosine {found['cosine']['mean']:.5f}"


def _nvidia_smi() -> str:
    query = "--query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm"
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not available: {error}"
    return (done.stdout or done.stderr).strip()


if __name__ == "__main__":
    app()
