"""The wheel that people install."""

from __future__ import annotations

import email
import importlib.util
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import fetalclip_edge as fe

LIMIT = 21_000_000


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(folder)]
    if all(importlib.util.find_spec(name) for name in ("scikit_build_core", "pybind11")):
        command.append("--no-build-isolation")
    done = subprocess.run([*command, str(repository)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < LIMIT


def test_the_wheel_holds_the_package_alone(names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"fetalclip_edge", f"fetalclip_edge-{fe.__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name or "test" in Path(name).name]


def test_the_wheel_holds_every_file_of_the_package(names: set[str], repository: Path) -> None:
    package = repository / "fetalclip_edge"
    wanted = {
        str(path.relative_to(repository))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }
    assert wanted <= names
    assert {
        "fetalclip_edge/py.typed",
        "fetalclip_edge/_native.pyi",
        "fetalclip_edge/assets/simulated_head.mp4",
        "fetalclip_edge/bundles/default/manifest.json",
        "fetalclip_edge/bundles/default/manifest.sha256",
        "fetalclip_edge/bundles/default/encoder.cpu.onnx",
        "fetalclip_edge/bundles/default/prompts.safetensors",
        "fetalclip_edge/bundles/default/MODEL_CARD.md",
    } <= wanted


def test_the_wheel_holds_one_compiled_module(names: set[str]) -> None:
    compiled = [name for name in names if name.endswith((".so", ".pyd", ".a"))]
    assert len(compiled) == 1
    assert compiled[0].startswith("fetalclip_edge/_native.")


def test_the_shipped_files_are_those_of_the_checkout(wheel: Path, repository: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for path in (repository / "fetalclip_edge" / "bundles" / "default").iterdir():
            assert archive.read(str(path.relative_to(repository))) == path.read_bytes()


def test_the_metadata_agree_with_the_package(metadata: Message, names: set[str]) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("fetalclip-edge", fe.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_device_needs_no_framework(metadata: Message) -> None:
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not [line for line in needed if line.startswith(("torch", "timm", "open_clip", "onnx>"))]
    assert [line for line in needed if line.startswith("onnxruntime")]


def test_the_command_is_installed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        text = archive.read(name).decode()
    assert "fetalclip-edge=fetalclip_edge.cli:main" in text.replace(" ", "")
