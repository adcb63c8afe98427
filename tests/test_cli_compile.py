"""`fetalclip-edge compile`, with a fake GPU and without one."""

from __future__ import annotations

import importlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import fetalclip_edge as fe
from fetalclip_edge.cli import app

Edit = Callable[[Callable[[dict[str, Any]], object]], Path]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    fake = importlib.import_module("tests.backends.fake_tensorrt")
    found: SimpleNamespace = fake.install(monkeypatch)
    return found


@pytest.fixture
def bundle(edited_bundle: Edit) -> Path:
    """The shipped graph, for both runtimes."""
    graphs = {"int8": "encoder.cpu.onnx"}

    def add(manifest: dict[str, Any]) -> None:
        manifest["graphs"] |= {"tensorrt": graphs, "tensorrt_rtx": graphs}

    return edited_bundle(add)


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def run(*arguments: str) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, ["compile", *arguments])
    return found.exit_code, found.stdout, found.stderr


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_an_engine_is_compiled_and_then_there(
    gpu: SimpleNamespace, bundle: Path, own_cache: Path, backend: str
) -> None:
    command = ("--backend", backend, "--precision", "int8", "--bundle", str(bundle))
    code, said, _ = run(*command)
    assert code == 0
    kept = re.fullmatch(rf"{backend} int8: compiled in [\d.]+ s, [\d.]+ MB, (.*)\n", said)
    assert kept is not None
    assert Path(kept[1]).parent == own_cache / "engines"
    code, said, _ = run(*command)
    assert (code, said.split(",")[0]) == (0, f"{backend} int8: was there")
    assert getattr(gpu, backend)._built == 1


def test_kernels_that_tensorrt_rtx_makes_as_it_loads_are_made_and_kept(
    gpu: SimpleNamespace, bundle: Path, own_cache: Path
) -> None:
    assert run("--backend", "tensorrt_rtx", "--bundle", str(bundle))[0] == 0
    assert len(list((own_cache / "engines").glob("*.kernels"))) == 1
    made = gpu.tensorrt_rtx._kernels
    assert made > 0
    fe.load(bundle, backend="tensorrt_rtx")
    assert gpu.tensorrt_rtx._kernels == made


def test_an_engine_that_does_not_load_is_told_by_compile(
    gpu: SimpleNamespace, bundle: Path
) -> None:
    gpu.tensorrt._loads = False
    code, _, said = run("--backend", "tensorrt", "--bundle", str(bundle))
    assert code == 1
    assert "does not load the engine that it compiled" in said


def test_a_terminal_sees_a_bar_on_first_use(
    gpu: SimpleNamespace, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    fe.load(bundle, backend="tensorrt")
    assert "compiling int8 with tensorrt, once" in screen.getvalue()
    assert "left:" in screen.getvalue()


def test_a_compiler_that_fails_is_an_error_at_run_time(gpu: SimpleNamespace, bundle: Path) -> None:
    gpu.tensorrt._refuses = "no such layer"
    code, _, said = run("--backend", "tensorrt", "--bundle", str(bundle))
    assert code == 1
    assert "cannot compile" in said
    assert "no such layer" in said


def test_an_engine_that_cannot_be_kept_is_an_error(
    gpu: SimpleNamespace, bundle: Path, own_cache: Path
) -> None:
    own_cache.parent.mkdir(parents=True, exist_ok=True)
    own_cache.write_text("in the way")
    code, _, said = run("--backend", "tensorrt", "--bundle", str(bundle))
    assert code == 1
    assert "could not be kept" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--backend", "openvino"], "must be tensorrt or tensorrt_rtx, not 'openvino'"),
        (["--bundle", "/nowhere"], "no bundle at /nowhere"),
        (["--backend", "tensorrt", "--precision", "fp4"], "no fp4 graph for 'tensorrt'"),
    ],
)
def test_bad_input_is_said(bundle: Path, arguments: list[str], said: str) -> None:
    if "--bundle" not in arguments:
        arguments = [*arguments, "--bundle", str(bundle)]
    code, out, error = run(*arguments)
    assert (code, out) == (2, "")
    assert said in error


def test_a_bundle_without_such_graphs_is_bad_input(edited_bundle: Edit) -> None:
    folder = edited_bundle(
        lambda manifest: manifest.update(graphs={"onnxruntime": {"int8": "encoder.cpu.onnx"}})
    )
    code, _, said = run("--bundle", str(folder))
    assert code == 2
    assert "no graph for tensorrt or tensorrt_rtx; it has: onnxruntime" in said


def test_a_machine_without_a_gpu_is_told_what_is_missing(bundle: Path, tmp_path: Path) -> None:
    # As on a machine without one, whatever there is here
    code = "import os; os.environ['CUDA_VISIBLE_DEVICES'] = ''; from fetalclip_edge.cli import main"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; main()", "compile", "--bundle", str(bundle)],
        capture_output=True,
        text=True,
        env={"XDG_CACHE_HOME": str(tmp_path), "PATH": ""},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"error: there is no NVIDIA GPU that CUDA can use \(\w+\): .*\n", done.stderr
    )
    assert not list(tmp_path.rglob("*.engine"))


def test_help_teaches() -> None:
    code, said, _ = run("--help")
    assert code == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", said).split())
    assert "ahead of the first frame" in text
    assert json.dumps("--precision")[1:-1] in text
