"""What an export measured, as a table for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from export.metrics import withheld_shares

__all__ = ["ages_told", "report"]


def report(metrics: dict[str, Any], console: Console) -> None:
    """Print FP32 and, where there is one, INT8 side by side; and what became of ages."""
    console.print(_table(metrics))
    if "age_bank" in metrics:
        told = ages_told(metrics["age_bank"])
        console.print(told, markup=False, highlight=False, soft_wrap=True)


def ages_told(ages: dict[str, Any]) -> str:
    """What the age of heads that were not measured is worth, or why the bundle tells none."""
    if "left_out" in ages:
        return f"no gestational age without a measured head: {ages['left_out']}"
    figures = [
        f"{100 * found['validity']:.1f} % of {found['images']} {split} heads"
        for split, found in ages.items()
    ]
    return f"gestational age without a measured head is usual for {', '.join(figures)}"


def _table(metrics: dict[str, Any]) -> Table:
    if "int8" not in metrics:
        table = Table("", "FP32", title=metrics["measured_on"])
        for task in ("planes", "brain_planes"):
            table.add_row(f"{task} macro f1", f"{metrics['fp32'][f'{task}_macro_f1']:.4f}")
        latency = metrics["latency_ms_one_thread"]["fp32"]
        table.add_row("ms a frame, one thread", f"{latency:.2f}")
        return table
    table = Table("", "FP32", "INT8", title=metrics["measured_on"])
    fp32, int8 = metrics["fp32"], metrics["int8"]
    for task in ("planes", "brain_planes"):
        key = f"{task}_macro_f1"
        table.add_row(key.replace("_", " "), f"{fp32[key]:.4f}", f"{int8[key]:.4f}")
    for plane in fp32["planes_f1"]:
        table.add_row(f"  {plane}", *(f"{m['planes_f1'][plane]:.4f}" for m in (fp32, int8)))
    latency = metrics["latency_ms_one_thread"]
    table.add_row("ms a frame, one thread", f"{latency['fp32']:.2f}", f"{latency['int8']:.2f}")
    table.add_row("times as fast", "1.00", f"{latency['fp32'] / latency['int8']:.2f}")
    table.add_row("cosine with FP32, mean", "", f"{int8['cosine_with_fp32_mean']:.4f}")
    for task in ("planes", "brain_planes"):
        error = int8[f"{task}_expected_calibration_error"]
        table.add_row(f"{task.replace('_', ' ')}, calibration error", "", f"{error:.4f}")
    for plane, withheld in withheld_shares(metrics).items():
        table.add_row(f"  {plane}, withheld", "", f"{withheld['images']} of {withheld['of']}")
    return table
