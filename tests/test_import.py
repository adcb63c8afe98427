from __future__ import annotations

import subprocess
import sys

import pytest

import fetalclip_edge as fe

FOUR = ("numpy", "cv2", "av", "onnxruntime")
LOADED = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def loaded_by(code: str) -> set[str]:
    """Top-level modules after running code in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {LOADED}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split()) - set(sys.stdlib_module_names)


def test_importing_loads_nothing_beyond_the_four_and_what_they_load() -> None:
    own = loaded_by("import fetalclip_edge") - loaded_by("import " + ", ".join(FOUR))
    assert own == {"fetalclip_edge"}


def test_importing_does_not_load_what_only_some_need() -> None:
    code = "import sys, fetalclip_edge; print({'asyncio', 'http.server', 'json'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{'json'}\n"


def test_loading_a_model_loads_no_framework_and_no_toolkit() -> None:
    loaded = loaded_by("import fetalclip_edge as fe; fe.load()")
    assert not loaded & {
        *("torch", "torchvision", "open_clip", "timm", "PIL", "pydicom", "typer", "rich"),
        *("matplotlib", "scipy", "sklearn", "onnx", "pandas"),
    }


def test_the_command_line_loads_no_framework() -> None:
    loaded = loaded_by("import fetalclip_edge.cli")
    assert not loaded & {"torch", "pydicom", "PIL", "matplotlib", "scipy", "sklearn", "onnx"}


def test_importing_says_nothing_and_starts_nothing() -> None:
    code = (
        "import threading; before = set(threading.enumerate()); import fetalclip_edge; "
        "assert set(threading.enumerate()) == before"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_everything_public_is_there() -> None:
    assert {"load", "Model", "stream", "Stream", "preprocess", "Result"} <= set(fe.__all__)
    assert fe.__all__ == sorted(fe.__all__)
    assert all(hasattr(fe, name) for name in fe.__all__)


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("InvalidImageError", ValueError),
        ("InvalidImageTypeError", TypeError),
        ("BundleError", ValueError),
        ("BundleNotFoundError", FileNotFoundError),
        ("BackendError", RuntimeError),
        ("BackendUnavailableError", ImportError),
        ("SinkError", OSError),
        ("SourceError", OSError),
        ("SourceNotFoundError", FileNotFoundError),
        ("SourceTimeoutError", TimeoutError),
    ],
)
def test_every_error_is_also_a_builtin(name: str, builtin: type[Exception]) -> None:
    from fetalclip_edge import errors

    error = getattr(errors, name)
    assert issubclass(error, builtin)
    assert issubclass(error, fe.FetalCLIPEdgeError)


def test_every_error_is_exported() -> None:
    from fetalclip_edge import errors

    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert kinds == set(errors.__all__)
