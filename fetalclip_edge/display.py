"""What the command line shows to people: progress on stderr, answers and tables on stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fetalclip_edge.analysis import Unreadable
from fetalclip_edge.demo import Passage
from fetalclip_edge.live_table import LiveTable
from fetalclip_edge.model import Model
from fetalclip_edge.results import Result
from fetalclip_edge.stream import Stream, StreamStats
from fetalclip_edge.tasks.quality import what_would_help
from fetalclip_edge.words import DISCLAIMER, percent, weeks

__all__ = [
    "answer",
    "bench_report",
    "counter",
    "demo_summary",
    "follow",
    "info_report",
    "losses",
    "note",
    "progress",
    "stream_summary",
    "tuning_report",
]

T = TypeVar("T")

_STATE_STYLE = {"live": "green", "frozen": "cyan", "out_of_domain": "yellow"}
_ANSWERED = ("live", "frozen")

_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


def progress(items: Iterable[T], title: str, total: int | None) -> Iterator[T]:
    """Pass items on behind a progress bar, which only a terminal shows."""
    with _bar() as bar:
        task = bar.add_task(escape(title), total=total)
        for item in items:
            yield item
            bar.advance(task)


@contextmanager
def counter(title: str, total: int) -> Iterator[Callable[[], object]]:
    """A progress bar; what it gives is called once for each step."""
    with _bar() as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=_err,
        transient=True,
        disable=not _err.is_terminal,
    )


def note(text: str) -> None:
    """A remark that is not part of the answer."""
    _err.print(escape(text), soft_wrap=True)


def answer(item: Result | Unreadable) -> None:
    """One line for one image or frame."""
    if isinstance(item, Unreadable):
        _out.print(f"{escape(item.source)}  [red]{escape(item.error)}[/]", soft_wrap=True)
        return
    plane, brain = item.plane, item.brain_plane
    words = []
    if item.embedding.size:  # else there was no picture to answer for
        words.append(f"[bold]{plane.label}[/] {percent(plane.confidence)}")
    if brain is not None and brain.label is not None:
        words.append(f"{brain.label} {percent(brain.confidence)}")
    words += _measures(item)
    words += _added(item)
    state = str(item.state)
    words.append(f"[{_STATE_STYLE.get(state, 'red')}]{state}[/]")
    if item.reason is not None:
        words.append(escape(item.reason))
    if (wanted := what_would_help(item)) is not None:
        words.append(f"[yellow]waits for a better picture: {wanted}[/]")
    where = escape(item.source or "") + (
        "" if item.frame_index is None else f" #{item.frame_index}"
    )
    _out.print(f"{where}  " + "  ".join(words), soft_wrap=True)


def _measures(item: Result) -> list[str]:
    """Circumference, or why the head was not measured, and age."""
    head, age = item.head, item.gestational_age
    words = []
    if head is not None and head.head_circumference_px is None:
        words = [f"[dim]{escape(head.reason or '')}[/]"]
    elif head is not None:
        words = [f"circumference {head.head_circumference_px:.0f} pixels"]
        if head.head_circumference_mm is not None:
            words = [f"circumference {head.head_circumference_mm:.1f} mm"]
    if age is not None:
        low, high = weeks(age.low_days), weeks(age.high_days)
        words.append(f"{weeks(age.days)} weeks ({low} to {high})")
    return words


def _added(item: Result) -> list[str]:
    """What the user's own heads say."""
    words = [
        f"{escape(name)}: {escape(found.label)} {percent(found.confidence)}"
        for name, found in item.probes.items()
        if found.label is not None
    ]
    if item.heart is not None and item.heart.label is not None:
        words.append(f"heart: {escape(item.heart.label)} {percent(item.heart.confidence)}")
    return words


def follow(live: Stream, results: Iterable[Result]) -> None:
    """Show a stream's results as they come, and close it with a summary.

    A terminal shows a table of what is now, anything else a line for each result; so do pictures of
    a folder, which are answered one by one.
    """
    source = live.source
    try:
        if source.still_pictures or not _out.is_terminal:
            for result in progress(results, source.name, source.frame_count):
                answer(result)
        else:
            with LiveTable(_out, source.name, DISCLAIMER) as table:
                for result in results:
                    table.update(result)
    finally:
        # Also after Ctrl-C, which is how a camera's stream ends. Closed, so that sinks have ended.
        live.close()
        stream_summary(live.stats())


@contextmanager
def losses(live: Stream) -> Iterator[None]:
    """Say at the end, also after Ctrl-C, what the stream's sinks have lost."""
    try:
        yield
    finally:
        for name, sink in live.stats().sinks.items():
            if sink.lost:
                note(f"{name}: {sink.lost} results lost, {sink.written} written")


def stream_summary(stats: StreamStats) -> None:
    """Counts and latency at the end of a stream."""
    _out.print(
        f"{stats.results} results of {stats.frames} frames in {stats.seconds:.1f} s "
        f"({stats.results_per_second:.1f} a second), {stats.dropped} dropped, "
        f"{stats.unreadable} unreadable"
        + (f", lost and found again {stats.reconnects} times" if stats.reconnects else "")
    )
    if stats.deadline_ms is not None:
        _out.print(
            f"{stats.deadline_misses} came later than {stats.deadline_ms:.1f} ms after the capture"
        )
    _out.print(_latency_table({k: asdict(v) for k, v in stats.latency_ms.items()}))


def demo_summary(model: Model, seen: list[Passage], stats: StreamStats) -> None:
    """What the demo saw, how fast, and with what."""
    table = Table("from", "to", "state", "plane", "confidence", "frames", title="Seen in the clip")
    for passage in seen:
        table.add_row(
            f"{passage.start_s:.2f} s",
            f"{passage.end_s:.2f} s",
            f"[{_STATE_STYLE.get(passage.state, 'red')}]{passage.state}[/]",
            passage.label,
            percent(passage.confidence) if passage.state in _ANSWERED else "withheld",
            str(passage.frames),
        )
    backend, bundle = model.backend, model.bundle
    _out.print(table)
    _out.print(
        f"{stats.results} frames of simulated ultrasound in {stats.seconds:.1f} s: "
        f"{stats.results_per_second:.0f} a second with {bundle.name} {bundle.version} "
        f"({backend.precision}, {backend.name} {backend.version}, {backend.device})",
        soft_wrap=True,
    )
    work = [stats.latency_ms[stage].p50 for stage in ("preprocess", "inference", "interpret")]
    _out.print(
        f"median a frame: {work[0]:.2f} ms preprocessing, {work[1]:.2f} ms inference, "
        f"{work[2]:.2f} ms interpretation"
    )
    _out.print(f"[bold]{DISCLAIMER}[/]")


def bench_report(report: dict[str, Any]) -> None:
    """Latency of every stage, and what it was measured on."""
    frames, machine, backend = report["frames"], report["machine"], report["backend"]
    _out.print(_latency_table(report["latency_ms"]))
    _out.print(
        f"{report['frames_per_second']} frames per second at full speed; at "
        f"{frames['rate_per_s']:g} a second {frames['answered']} of {frames['offered']} answered, "
        f"{frames['dropped']} dropped",
        soft_wrap=True,
    )
    _out.print(
        f"{frames['width']}x{frames['height']}, {frames['channels']} channels, {frames['clip']}; "
        f"{report['bundle']['name']} {report['bundle']['version']}, {backend['precision']}, "
        f"{backend['name']} {backend['version']} on {backend['device']}; "
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}",
        soft_wrap=True,
    )


def tuning_report(report: dict[str, Any]) -> None:
    """What each graph took and how near it came to float32, the fastest first."""
    table = Table("backend", "precision", "device", "ms, median", "ms, p95", "cosine", "")
    for column in table.columns[3:6]:
        column.justify = "right"
    for trial in report["trials"]:
        numbers = [trial["median_ms"], trial["p95_ms"], trial["mean_cosine"]]
        shown = ["" if n is None else f"{n:.{d}f}" for n, d in zip(numbers, (2, 2, 4), strict=True)]
        name = trial["backend"] + (f" {trial['version']}" if trial["version"] else "")
        verdict = escape(trial["problem"] or "")
        if trial == report["trials"][0]:
            verdict = "[green]fastest[/]"
        table.add_row(name, trial["precision"], trial["device"] or "", *shown, verdict)
    _out.print(table)
    _out.print(
        f"{report['rounds']} frames each, taking turns; CPU threads: {report['threads']}; cosine "
        f"with float32 on the bundle's reference frames, at least {report['least_mean_cosine']:g}",
        soft_wrap=True,
    )


def info_report(report: dict[str, Any]) -> None:
    """Everything that `info` knows, section by section."""
    for section, values in report.items():
        if isinstance(values, dict):
            _out.print(f"[bold]{section}[/]")
            _print_tree(values, indent=2)
        else:
            shown = ", ".join(map(str, values)) if isinstance(values, list) else values
            _out.print(f"[bold]{section}[/] {escape(str(shown))}", soft_wrap=True)


def _print_tree(values: dict[str, Any], indent: int) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            _out.print(" " * indent + key)
            _print_tree(value, indent + 2)
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            _out.print(" " * indent + f"{key}: {escape(shown)}", soft_wrap=True)


def _latency_table(latency: dict[str, dict[str, float]]) -> Table:
    table = Table("stage", "p50", "p95", "p99", "max", title="Latency in milliseconds")
    for column in table.columns[1:]:
        column.justify = "right"
    for stage, values in latency.items():
        row = (f"{values[name]:.2f}" for name in ("p50", "p95", "p99", "max"))
        table.add_row(stage.replace("_", " "), *row)
    return table
