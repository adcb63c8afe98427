"""The figures of `benchmarks.abstention` as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["as_markdown"]


def as_markdown(figures: Mapping[str, Any]) -> str:
    """Tables of what was measured, and whether the floors hold."""
    return "\n".join([*_head(figures), *_calibration(figures), *_domain(figures)]) + "\n"


def _head(figures: Mapping[str, Any]) -> Iterator[str]:
    bundle, backend = figures["bundle"], figures["backend"]
    floors, calibrated = figures["floors"], figures["calibration"]["planes"]
    error = calibrated["expected_calibration_error"]
    pooled = figures["domain"]["pooled"]["auroc"]
    accepted = figures["domain"]["accepted"]["all planes"]["share"]
    yield "# Calibration and abstention"
    yield ""
    yield (
        f"{bundle['name']} {bundle['version']}, {backend['precision']}, {backend['name']} "
        f"{backend['version']}; 95 % intervals by patient and by source. Written by "
        "`python -m benchmarks.abstention`."
    )
    yield ""
    yield "| | measured | wanted | |"
    yield "|---|---|---|---|"
    verdict = _verdict(error["value"] <= floors["planes_ece"])
    wanted = f"at most {floors['planes_ece']:g}"
    yield f"| expected calibration error, planes | {_number(error)} | {wanted} | {verdict} |"
    verdict = _verdict(pooled["value"] >= floors["auroc"])
    wanted = f"{floors['auroc']:g}"
    yield f"| AUROC of the distance, all others | {_number(pooled)} | {wanted} | {verdict} |"
    verdict = _verdict(accepted["value"] >= floors["accepted"])
    wanted = f"{100 * floors['accepted']:g} %"
    yield f"| fetal frames answered | {_percent(accepted)} | {wanted} | {verdict} |"


def _calibration(figures: Mapping[str, Any]) -> Iterator[str]:
    titles = {"planes": "four planes", "brain_planes": "brain sub-planes"}
    for task, found in figures["calibration"].items():
        yield ""
        yield f"## Confidence, {titles[task]}"
        yield ""
        yield (
            f"{found['images']} test images of {found['patients']} patients, withheld ones too: "
            f"right in {100 * found['accuracy']:.1f} %, mean confidence "
            f"{100 * found['mean_confidence']:.1f} %. Expected calibration error over 15 bins: "
            f"{_number(found['expected_calibration_error'])}. Drawing patients mostly adds to it, "
            "so the interval lies rather high."
        )
        yield ""
        yield "| confidence | images | mean confidence | right |"
        yield "|---|---|---|---|"
        for row in found["reliability"]:
            yield (
                f"| {row['from']:.2f} to {row['to']:.2f} | {row['images']} | "
                f"{row['confidence']:.3f} | {row['accuracy']:.3f} |"
            )


def _domain(figures: Mapping[str, Any]) -> Iterator[str]:
    found = figures["domain"]
    yield ""
    yield "## Out of domain"
    yield ""
    yield "| other pictures | pictures | sources | AUROC of the distance | withheld |"
    yield "|---|---|---|---|---|"
    for kind, row in {**found["kinds"], "**all**": found["pooled"]}.items():
        yield (
            f"| {kind} | {row['pictures']} | {row['sources']} | {_number(row['auroc'])} | "
            f"{_percent(row['withheld'])} |"
        )
    yield ""
    yield "| test images | images | patients | answered |"
    yield "|---|---|---|---|"
    for plane, row in found["accepted"].items():
        yield f"| {plane} | {row['pictures']} | {row['sources']} | {_percent(row['share'])} |"
    yield ""
    yield "Apart, and tuned on by nobody:"
    yield ""
    yield "| test images | images | patients | withheld |"
    yield "|---|---|---|---|"
    for name, row in figures["apart"].items():
        yield f"| {name} | {row['pictures']} | {row['sources']} | {_percent(row['withheld'])} |"


def _verdict(held: bool) -> str:
    return "held" if held else "**not held**"


def _number(figure: Mapping[str, Any]) -> str:
    told = f"{figure['value']:.4f}"
    low, high = figure["interval"] or (0, 0)
    return told if low == high else f"{told} ({low:.4f} to {high:.4f})"


def _percent(figure: Mapping[str, Any]) -> str:
    """Without an interval where all pictures are alike: drawing them again shows nothing."""
    told = f"{100 * figure['value']:.1f} %"
    low, high = figure["interval"] or (0, 0)
    return told if low == high else f"{told} ({100 * low:.1f} to {100 * high:.1f})"
