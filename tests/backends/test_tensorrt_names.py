"""What we call of TensorRT is there in every version that we say we run on."""

from __future__ import annotations

import ast
import enum
import inspect
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.tensorrt_names import names_of_module, names_of_wheel

from .fake_tensorrt import engine_class

NAMES = Path(__file__).parent / "names"
VERSIONS = {
    "tensorrt": ["tensorrt-10.3.0", "tensorrt-10.13.3.9.post1", "tensorrt-11.4.0.106"],
    "tensorrt_rtx": ["tensorrt_rtx-1.7.1.116"],
}
EVERY = [version for versions in VERSIONS.values() for version in versions]

SHARED = [
    "fetalclip_edge/engines/build.py",
    "fetalclip_edge/engines/session.py",
    "fetalclip_edge/backends/engine.py",
    "fetalclip_edge/backends/tensorrt.py",
]
RTX_ALONE = ["fetalclip_edge/backends/tensorrt_rtx.py", "export/engine.py"]

CLASSES = {
    "trt": "",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "error": "ParserError",
    "profile": "IOptimizationProfile",
    "tensor": "ITensor",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "runtime": "Runtime",
    "settings": "IRuntimeConfig",
    "store": "IRuntimeCache",
}
"""What our variables of these names, also as `self._name`, hold."""


def recorded(version: str) -> dict[str, set[str]]:
    found = json.loads((NAMES / f"{version}.json").read_text())
    return {name: set(members.split()) for name, members in found["names"].items()}


def calls(path: Path) -> Iterator[tuple[str, str]]:
    """Class and member of each attribute that a module uses of TensorRT's objects."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Attribute):
            continue
        parts = [node.attr]
        inner: ast.expr = node.value
        while isinstance(inner, ast.Attribute):
            parts.insert(0, inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            continue
        parts.insert(0, inner.id)
        if parts[0] in ("self", "cls"):
            parts = [parts[1].lstrip("_"), *parts[2:]]
        if parts[0] == "trt" and len(parts) > 1:
            # trt.Class.MEMBER or trt.Class.Inner.MEMBER
            yield ".".join(parts[1:-1]), parts[-1]
        elif parts[0] in CLASSES and len(parts) == 2:
            yield CLASSES[parts[0]], parts[1]


def used(repository: Path, files: list[str]) -> set[tuple[str, str]]:
    # Dataclasses of ours with the same short names are no business of TensorRT's.
    ours = {("ITensor", member) for member in ("size", "dtype")}
    found = {call for file in files for call in calls(repository / file)}
    return {call for call in found - ours if not call[1].startswith("__")}


def missing(names: dict[str, set[str]], wanted: set[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(call for call in wanted if call[1] not in names.get(call[0], set()))


@pytest.mark.parametrize("version", EVERY)
def test_every_call_of_ours_is_there(repository: Path, version: str) -> None:
    wanted = used(repository, SHARED)
    # These are among what is found, or the search finds nothing.
    assert {
        ("", "OnnxParser"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "progress_monitor"),
        ("IOptimizationProfile", "set_shape"),
        ("ICudaEngine", "get_tensor_profile_shape"),
        ("IExecutionContext", "execute_async_v3"),
        ("IExecutionContext", "set_tensor_address"),
        ("Runtime", "deserialize_cuda_engine"),
        ("ILogger.Severity", "ERROR"),
    } <= wanted
    assert missing(recorded(version), wanted) == []


@pytest.mark.parametrize("version", VERSIONS["tensorrt_rtx"])
def test_what_is_called_of_tensorrt_rtx_alone_is_there(repository: Path, version: str) -> None:
    wanted = used(repository, RTX_ALONE)
    assert ("ICudaEngine", "create_runtime_config") in wanted
    assert ("BuilderFlag", "REQUIRE_USER_ALLOCATION") in wanted
    assert ("IExecutionContext", "is_stream_capturable") in wanted
    assert ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy") in wanted
    assert {("IRuntimeCache", "serialize"), ("IRuntimeCache", "deserialize")} <= wanted
    assert missing(recorded(version), wanted) == []


@pytest.mark.parametrize(
    ("version", "gone"),
    [
        ("tensorrt-11.4.0.106", ("BuilderFlag", "FP16")),
        ("tensorrt-11.4.0.106", ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH")),
        ("tensorrt-11.4.0.106", ("OnnxParser", "supports_model")),
        ("tensorrt-10.3.0", ("IBuilderConfig", "set_compute_capability")),
    ],
)
def test_a_call_that_a_version_lacks_would_be_found(version: str, gone: tuple[str, str]) -> None:
    assert missing(recorded(version), {gone}) == [gone]


def members(thing: Any) -> set[str]:
    """Public names, also of an object whose `__dir__` hides those of its class, as a module's."""
    return {name for name in {*dir(thing), *dir(type(thing))} if not name.startswith("_")}


@pytest.mark.parametrize("version", EVERY)
def test_the_fake_has_no_name_that_the_real_one_lacks(
    fake_gpu: SimpleNamespace, version: str
) -> None:
    module = getattr(fake_gpu, version.partition("-")[0])
    names = recorded(version)
    assert "OnnxParser" in members(module)
    assert members(module) <= names[""]
    # The classes that it hands out, by name, from the file that makes them.
    made = {**vars(sys.modules[type(module).__module__]), **vars(module)}
    made["ICudaEngine"] = engine_class(module)
    kinds = {name: kind for name, kind in made.items() if name in names and inspect.isclass(kind)}
    if version in VERSIONS["tensorrt"]:
        kinds = {k: v for k, v in kinds.items() if k not in ("IRuntimeConfig", "BuilderFlag")}
    else:
        kinds["IExecutionContext"] = made["RTXExecutionContext"]
    assert {"Builder", "OnnxParser", "ICudaEngine", "IExecutionContext", "Runtime"} <= set(kinds)
    for name, kind in kinds.items():
        if not issubclass(kind, enum.Enum):
            extra = {n for n in dir(kind) if not n.startswith("_")} - names[name]
            assert not extra, f"{version} lacks {name}.{extra}"
        elif name != "DataType":  # whose names are made up where numpy's are meant
            assert set(kind.__members__) <= names[name]


def test_the_fake_gpu_has_no_name_that_the_real_bindings_lack(fake_gpu: SimpleNamespace) -> None:
    # In a process of its own: here the fake is in the way.
    code = "from cuda.bindings import runtime; print(*dir(runtime))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"cudaMalloc", "cudaGraphLaunch"} <= members(fake_gpu.cuda)
    assert members(fake_gpu.cuda) <= set(done.stdout.split())


def test_the_record_of_tensorrt_rtx_is_that_of_the_module_installed() -> None:
    found = names_of_module("tensorrt_rtx")
    expected = json.loads((NAMES / f"tensorrt_rtx-{found['version']}.json").read_text())
    assert {k: " ".join(v) for k, v in found["names"].items()} == expected["names"]


def test_what_is_no_wheel_of_the_bindings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.whl").write_text("no archive")
    with pytest.raises(RuntimeError, match="is no wheel"):
        names_of_wheel(tmp_path / "text.whl")
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
    with pytest.raises(RuntimeError, match=r"holds no tensorrt_bindings/tensorrt\.so"):
        names_of_wheel(tmp_path / "other.whl")
    with pytest.raises(RuntimeError, match="No module named 'no_such_runtime'"):
        names_of_module("no_such_runtime")
