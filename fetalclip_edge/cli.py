"""The command line, `fetalclip-edge`: every option here, the work elsewhere."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import re
import sys
from contextlib import closing
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from fetalclip_edge import display
from fetalclip_edge.analysis import Unreadable, analyze_paths, list_files, read_pixel_sizes
from fetalclip_edge.backends import BACKENDS, load_with_choice
from fetalclip_edge.backends.tuned import installed_version
from fetalclip_edge.bench import benchmark
from fetalclip_edge.bundle import ModelBundle
from fetalclip_edge.cli_compile import compile_command
from fetalclip_edge.cli_errors import BAD_INPUT, FAILED, fail, say
from fetalclip_edge.cli_options import (
    BackendOption,
    BundleOption,
    ChartOption,
    PixelSizeOption,
    SourceArgument,
    ThreadsOption,
    load_model,
    loading,
)
from fetalclip_edge.cli_region import ProfileOption, RegionOption, region_of
from fetalclip_edge.cli_report import report_command
from fetalclip_edge.cli_saving import Saving
from fetalclip_edge.cli_view import view_command
from fetalclip_edge.demo import DEMO_CLIP, passages
from fetalclip_edge.errors import FetalCLIPEdgeError, SourceError
from fetalclip_edge.machine import describe_machine, describe_model
from fetalclip_edge.model import Model
from fetalclip_edge.results import Result
from fetalclip_edge.sources import open_source
from fetalclip_edge.stream import stream
from fetalclip_edge.tasks.growth import DEFAULT_CHART
from fetalclip_edge.tuning import graphs_to_try, remember_tuning, tune

__all__ = ["app", "main"]


app = typer.Typer(
    name="fetalclip-edge",
    help="Fetal standard planes from ultrasound, live and on the device.\n\n"
    "Start with: fetalclip-edge demo\n\n"
    "Not a medical device: for research and engineering, never for diagnosis.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DetailsOption = Annotated[
    bool,
    typer.Option(
        "--details",
        help="With JSON: why nothing is told, how good the picture is, all measures of the head, "
        "heart and probes",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of text for people")]


@app.command()
def demo(
    picture: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Also draw the clip and its answers")
    ] = None,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    threads: ThreadsOption = 1,
) -> None:
    """Stream the shipped clip of simulated ultrasound and say what was seen.

    Example: fetalclip-edge demo --picture demo.png
    """
    if picture is not None and not picture.parent.is_dir():
        fail(f"--picture {picture}: there is no folder {picture.parent}", BAD_INPUT)
    model = load_model(bundle, backend, threads)
    with stream(DEMO_CLIP, model=model, policy="all") as live:
        total = live.source.frame_count
        results = list(display.progress(live, "streaming simulated ultrasound", total))
    display.demo_summary(model, passages(results), live.stats())
    if picture is not None:
        from fetalclip_edge.picture import draw_summary

        draw_summary(DEMO_CLIP, results, picture, title="simulated ultrasound")
        display.note(f"drew {picture}")


@app.command()
def analyze(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Images, DICOM files, or folders")
    ],
    as_json: JsonOption = False,
    pixel_size_mm: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Millimetres per pixel, for all images; without it heads are measured in pixels",
        ),
    ] = None,
    pixel_sizes: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="The same by file: columns file and pixel_size_mm"),
    ] = None,
    region: RegionOption = None,
    region_profile: ProfileOption = None,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    threads: ThreadsOption = 1,
    chart: ChartOption = DEFAULT_CHART,
    details: DetailsOption = False,
) -> None:
    """Answer for images, one after the other.

    A file that cannot be read is reported in its place and the run goes on; the exit code is
    then 1.

    Example: fetalclip-edge analyze scans/ --json > answers.jsonl
    """
    if pixel_size_mm is not None and pixel_sizes is not None:
        fail("give --pixel-size-mm or --pixel-sizes, not both", BAD_INPUT)
    if pixel_size_mm is not None and not 0 < pixel_size_mm < float("inf"):
        fail(f"--pixel-size-mm must be a positive number, not {pixel_size_mm}", BAD_INPUT)
    try:
        sizes = read_pixel_sizes(pixel_sizes) if pixel_sizes is not None else {}
        files = list_files(paths)
    except (OSError, ValueError) as error:
        fail(str(error), BAD_INPUT)
    where = region_of(region, region_profile)
    model = load_model(bundle, backend, threads, chart)
    answers = analyze_paths(
        model, files, pixel_size_mm=pixel_size_mm, pixel_sizes=sizes, region=where
    )
    unreadable = 0
    for answer in display.progress(answers, "analysing", len(files)):
        unreadable += isinstance(answer, Unreadable)
        if as_json:
            _print_json(answer, details=details)
        else:
            display.answer(answer)
    if unreadable:
        fail(f"{unreadable} of the images could not be read", FAILED)


@app.command("stream")
def stream_command(
    source: SourceArgument,
    as_json: JsonOption = False,
    policy: Annotated[
        str | None,
        typer.Option(help="latest: newest frame, drops counted; all: every frame"),
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after N results")
    ] = None,
    pixel_size_mm: PixelSizeOption = None,
    region: RegionOption = None,
    region_profile: ProfileOption = None,
    save_jsonl: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the objects of --json there")
    ] = None,
    save_video: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write an annotated video, .mp4 or .mkv")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, metavar="N", help="Serve Prometheus metrics on 127.0.0.1:N"),
    ] = None,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    threads: ThreadsOption = 1,
    chart: ChartOption = DEFAULT_CHART,
    details: DetailsOption = False,
) -> None:
    """Answer for a live source or a recording, frame by frame, until it ends or Ctrl-C.

    A terminal shows a table of what is now. Saving never holds a live source up: what a slow disk
    costs is counted and told at the end. With --policy all nothing is left out.

    Example: fetalclip-edge stream /dev/video0 --save-video exam.mkv
    """
    where = region_of(region, region_profile)
    model = load_model(bundle, backend, threads, chart)
    try:
        opened = open_source(source)
        every_frame = (policy or ("latest" if opened.live else "all")) == "all"
        saving = Saving(save_jsonl, save_video, metrics_port, every_frame, details=details)
        live = stream(
            opened,
            model=model,
            policy=policy,  # type: ignore[arg-type]
            region=where,
            pixel_size_mm=pixel_size_mm,
            sinks=saving.for_stream(),
        )
        live.__enter__()
    except (SourceError, ValueError, TypeError) as error:
        fail(str(error), BAD_INPUT)
    answers = itertools.islice(live, max_frames)
    with display.losses(live), live, closing(saving.pass_on(live, answers)) as results:
        if as_json:
            for result in results:
                _print_json(result, details=details)
        else:
            display.follow(live, results)
    stats = live.stats()
    if stats.frames == 0:
        fail(f"{live.source.name} gave no frame that could be read", BAD_INPUT)
    if stats.unreadable:
        fail(f"{stats.unreadable} of the frames could not be read", FAILED)
    if failed := [f"{name} ({sink.error})" for name, sink in stats.sinks.items() if sink.error]:
        fail(f"not all was saved: {', '.join(failed)}", FAILED)


@app.command()
def bench(
    as_json: JsonOption = False,
    frames: Annotated[int, typer.Option(min=1, metavar="N", help="Frames to time")] = 300,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Scale the clip's frames, e.g. 1920x1080")
    ] = None,
    rate: Annotated[float, typer.Option(help="Frames per second offered")] = 30.0,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    threads: ThreadsOption = 1,
) -> None:
    """Time every stage on this device, on frames of the shipped clip.

    Frames are offered at --rate as a camera would (latency from capture to result), then answered
    as fast as it goes (frames per second). All samples count; none is clipped.

    Example: fetalclip-edge bench --size 1920x1080
    """
    if not 0 < rate < float("inf"):
        fail(f"--rate must be a positive number, not {rate}", BAD_INPUT)
    scaled = _parse_size(size)
    model = load_model(bundle, backend, threads)
    with display.counter("timing", 2 * frames) as advance:
        report = benchmark(model, frames=frames, size=scaled, rate=rate, advance=advance)
    if as_json:
        _print(json.dumps(report, indent=2))
    else:
        display.bench_report(report)


@app.command("tune")
def tune_command(
    as_json: JsonOption = False,
    rounds: Annotated[
        int, typer.Option(min=1, max=100_000, metavar="N", help="Frames to time with each graph")
    ] = 100,
    bundle: BundleOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Measure the installed backends on this device, and remember the fastest for "auto".

    Each graph of the bundle that a backend runs here is held against the float32 embeddings of the
    bundle's reference frames; one that strays is dropped. The others take turns on the same frames.
    The result holds for this bundle, device and number of threads, until a runtime is updated.

    Example: fetalclip-edge tune
    """
    with loading():
        checked = ModelBundle.load(bundle)
        steps = rounds + len(graphs_to_try(checked))
        with display.counter("tuning", steps) as advance:
            tuning = tune(checked, threads=threads, rounds=rounds, advance=advance)
    report: dict[str, Any] = {**tuning.to_dict(), "machine": describe_machine(), "remembered": None}
    problem = None
    try:
        report["remembered"] = str(remember_tuning(checked, tuning))
    except OSError as error:
        problem = f"measured, but cannot remember it: {error}"
    if as_json:
        _print(json.dumps(report, indent=2))
    else:
        display.tuning_report(report)
    if problem is not None:
        fail(problem, FAILED)
    display.note(f"remembered in {report['remembered']}")


@app.command()
def info(
    as_json: JsonOption = False,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    threads: ThreadsOption = 1,
) -> None:
    """Say which versions, machine, bundle and backend are in use, and how good the model is.

    Also which backends are installed, which of them was chosen, and why not the others.

    Example: fetalclip-edge info --json
    """
    from fetalclip_edge._native import instruction_sets

    with loading():
        checked = ModelBundle.load(bundle)
        loaded, choice = load_with_choice(checked, backend, threads)
        model = Model(checked, loaded)
    report: dict[str, Any] = {
        **describe_model(model),
        "bundle_folder": str(model.bundle.folder),
        "choice": asdict(choice),
        "backends": {
            name: {
                "installed": installed_version(name),
                "graphs": list(checked.graphs.get(name, {})),
            }
            for name in BACKENDS
        },
        "machine": describe_machine(),
        "preprocessing": instruction_sets(),
        "intended_use": model.bundle.intended_use,
        "metrics": model.bundle.metrics,
        "thresholds": model.bundle.thresholds,
        "tasks": model.bundle.tasks,
    }
    if as_json:
        _print(json.dumps(report, indent=2))
    else:
        display.info_report(report)


app.command("compile")(compile_command)
app.command("report")(report_command)
app.command("view")(view_command)


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.")
    ] = False,
) -> None:
    if show_version:
        _print(version("fetalclip-edge"))
        raise typer.Exit


def main() -> None:
    """Run the command line. Errors are one line on stderr, never a traceback.

    Exit codes: 0; 1 for a failure at run time, which includes files that could not be read; 2 for
    bad usage or input; 130 after Ctrl-C, as shells expect (typer does that).
    """
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="warning: %(message)s", level=logging.WARNING)
    try:
        app()
    except BrokenPipeError:
        # The reader (`head`, say) has enough. Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except FetalCLIPEdgeError as error:
        sys.exit(say(str(error), FAILED))
    except Exception as error:
        sys.exit(say(f"{type(error).__name__}: {error}", FAILED))


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,4})[xX](\d{1,4})", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= min(size) <= max(size) <= 8192:
        fail(f"--size must be WIDTHxHEIGHT in pixels, at most 8192, not {text!r}", BAD_INPUT)
    return size


def _print_json(answer: Result | Unreadable, *, details: bool) -> None:
    told = answer.to_dict(details=details) if isinstance(answer, Result) else answer.to_dict()
    # ASCII, so that any terminal and any file name (even one that is no UTF-8) can be written.
    _print(json.dumps(told, allow_nan=False))


def _print(text: str) -> None:
    # Flushed line by line: a reader of a live stream waits for each.
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
