"""Make torchvision importable beside a CPU build of torch that lacks its compiled operators.

timm and open_clip import torchvision for its Python parts alone, but `import torchvision` fails
with "operator torchvision::nms does not exist" where its compiled library does not load.
Declaring the schemas of the two operators it looks up is enough. Import this module before
timm or open_clip: `training.models` does.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

__all__: list[str] = []

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _load_compiled_operators() -> bool:
    """Whether torchvision's own library loads, which registers the real operators."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for library in sorted(Path(spec.origin).parent.glob("_C*.so")):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return False
    return hasattr(torch.ops.torchvision, "nms")


if not _load_compiled_operators():
    # Kept for the life of the process: the schemas go when the library object does.
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    for _operator in ("nms", "qnms"):
        _LIBRARY.define(_operator + _SCHEMA)
