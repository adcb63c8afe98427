"""Which names TensorRT's bindings have: `python -m export.tensorrt_names WHEEL... --out DIR`.

The tests compare what `fetalclip_edge.engines` calls with the files that this writes, so that a
call which a version of TensorRT lacks is found where there is no GPU and no TensorRT. The wheels of
the bindings alone are on the package index (`pip download --no-deps
tensorrt-cu12-bindings==10.3.0`); they import over stand-ins for the libraries, made with gcc. A
module that is installed, such as tensorrt_rtx, may be given in place of a wheel.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

__all__ = ["names_of_module", "names_of_wheel"]

_READ = """
import ctypes, importlib, inspect, json, sys
for library in sys.argv[2:]:
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
module = importlib.import_module(sys.argv[1])
def public(thing):
    return sorted(name for name in dir(thing) if not name.startswith("_"))
found = {"": [name for name in public(module) if not inspect.ismodule(getattr(module, name))]}
for name in found[""]:
    kind = getattr(module, name)
    if inspect.isclass(kind) and kind.__module__.startswith("tensorrt"):
        found[name] = public(kind)
        for inner in found[name]:
            if inspect.isclass(getattr(kind, inner, None)):
                found[name + "." + inner] = public(getattr(kind, inner))
print(json.dumps({"version": module.__version__, "names": found}))
"""


def names_of_module(module: str) -> dict[str, Any]:
    """Version and names of an installed module.

    Returns:
        `version`, and `names`: class ("" for the module itself) -> its public names, sorted.

    Raises:
        RuntimeError: it does not import.
    """
    return _read(module, [], None)


def names_of_wheel(wheel: Path) -> dict[str, Any]:
    """Version and names of a wheel of the bindings, without the libraries that it needs.

    Raises:
        RuntimeError: it is no such wheel, it is for another Python, or gcc or readelf is missing.
    """
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        except (OSError, zipfile.BadZipFile) as error:
            raise RuntimeError(f"{wheel} is no wheel: {error}") from error
        compiled = next(folder.glob("tensorrt_bindings/tensorrt.so"), None)
        if compiled is None:
            raise RuntimeError(f"{wheel} holds no tensorrt_bindings/tensorrt.so")
        return _read("tensorrt_bindings", _stand_ins(compiled, folder), folder)


def _stand_ins(compiled: Path, folder: Path) -> list[Path]:
    """Libraries under the names of TensorRT's that a module needs, whose symbols do nothing."""
    dynamic = _run(["readelf", "-d", str(compiled)])
    needed = [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line]
    names = [name for name in needed if name.startswith("libnv")]
    source = folder / "symbols.c"
    source.write_text("".join(f"char {s}[256];\n" for s in _wanted_symbols(compiled)), "ascii")
    libraries = [folder / name for name in names]
    for library in libraries:
        # All symbols in each: which library brings which does not matter here.
        options = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{library.name}", "-o", str(library)]
        _run(["gcc", *options, str(source)])
    return libraries


def _wanted_symbols(compiled: Path) -> list[str]:
    """Symbols that neither the C libraries, which say their version, nor Python have."""
    found = []
    for line in _run(["readelf", "-W", "--dyn-syms", str(compiled)]).splitlines():
        fields = line.split()
        if len(fields) == 8 and fields[4] == "GLOBAL" and fields[6] == "UND":
            found.append(fields[7])
    return [name for name in found if "@" not in name and not name.startswith(("Py", "_Py"))]


def _read(module: str, libraries: list[Path], folder: Path | None) -> dict[str, Any]:
    # In a process of its own: a module that was imported once cannot be imported again.
    command = [sys.executable, "-c", _READ, module, *map(str, libraries)]
    found: dict[str, Any] = json.loads(_run(command, folder))
    return found


def _run(command: list[str], folder: Path | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    except FileNotFoundError as error:
        raise RuntimeError(f"{command[0]} is not installed") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise RuntimeError(f"{command[0]} failed: {said[-1] if said else done.returncode}")
    return done.stdout


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    sources: Annotated[
        list[str], typer.Argument(metavar="WHEEL_OR_MODULE...", help="Wheels, installed modules")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the JSON files")],
) -> None:
    """Write the names of each version of TensorRT's bindings into a JSON file.

    Example: python -m export.tensorrt_names wheels/*.whl tensorrt_rtx --out tests/backends/names
    """
    console = Console(stderr=True, highlight=False)
    if not out.is_dir():
        console.print(f"error: {out} is no folder")
        raise typer.Exit(2)
    for source in sources:
        wheel = source.endswith(".whl")
        try:
            found = names_of_wheel(Path(source)) if wheel else names_of_module(source)
        except RuntimeError as error:
            console.print(f"error: {source}: {error}", soft_wrap=True)
            raise typer.Exit(2) from None
        kind = "tensorrt" if wheel else source
        path = out / f"{kind}-{found['version']}.json"
        path.write_text(_as_text(found), encoding="utf-8")
        console.print(f"wrote {path}: {len(found['names'])} classes", soft_wrap=True)


def _as_text(found: dict[str, Any]) -> str:
    """One line a class, so that versions can be compared with diff."""
    lines = (f"  {json.dumps(k)}: {json.dumps(' '.join(v))}" for k, v in found["names"].items())
    body = ",\n".join(lines)
    return f'{{"version": {json.dumps(found["version"])}, "names": {{\n{body}\n}}}}\n'


if __name__ == "__main__":
    app()
