"""`fetalclip-edge view`: the screen, as a web page."""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fetalclip_edge.checklist import Checklist
from fetalclip_edge.cli_errors import BAD_INPUT, FAILED, fail
from fetalclip_edge.cli_options import (
    BackendOption,
    BundleOption,
    PixelSizeOption,
    ThreadsOption,
    load_model,
)
from fetalclip_edge.cli_region import ProfileOption, RegionOption, region_of
from fetalclip_edge.demo import DEMO_CLIP
from fetalclip_edge.mailbox import Policy
from fetalclip_edge.model import Model
from fetalclip_edge.sinks import Sink
from fetalclip_edge.sources import open_source
from fetalclip_edge.stream import Stream, stream

__all__ = ["view_command"]


def view_command(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="Camera, video, DICOM, folder, URL, pipeline; without, the shipped clip",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than this machine's asks for a token")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Port; 0 takes a free one")
    ] = 8765,
    loop: Annotated[bool, typer.Option("--loop", help="Play a recording over and over")] = False,
    region: RegionOption = None,
    region_profile: ProfileOption = None,
    pixel_size_mm: PixelSizeOption = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Save the captured pictures at the end of each exam"),
    ] = None,
    hold: Annotated[
        float, typer.Option(metavar="S", help="Seconds after which a held plane counts as seen")
    ] = 1.0,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    threads: ThreadsOption = 1,
) -> None:
    """Show a live source in the browser: the picture, its plane, and the checklist of the exam.

    Open the address that is printed. The page can be used by touch and by keyboard (F freezes, C
    captures, R downloads the report, ? lists the keys), by several people at once. Ctrl-C ends it.

    Example: fetalclip-edge view /dev/video0 --save exams
    """
    if missing := [name for name in ("fastapi", "uvicorn") if not importlib.util.find_spec(name)]:
        fail(f'{" and ".join(missing)} not installed: pip install "fetalclip-edge[viewer]"', FAILED)
    from fetalclip_edge.report import ExamRecorder
    from fetalclip_edge.report.html import report_html
    from fetalclip_edge.viewer.app import make_app
    from fetalclip_edge.viewer.exams import Exams
    from fetalclip_edge.viewer.guard import is_loopback
    from fetalclip_edge.viewer.hub import Hub
    from fetalclip_edge.viewer.serve import address_of, listen, show

    if save is not None:
        try:
            save.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail(f"--save {save}: cannot be made a folder: {error.strerror}", BAD_INPUT)
    try:
        checklist = Checklist(hold_s=hold)
    except ValueError:
        fail(f"--hold must be 0.1 to 10 seconds, not {hold}", BAD_INPUT)
    chosen = region_of(region, region_profile)
    try:
        listener = listen(host, port)
    except OSError as error:
        fail(f"cannot listen on {host} port {port}: {error.strerror or error}", BAD_INPUT)
    with listener:
        model = load_model(bundle, backend, threads)
        recorder = ExamRecorder(model, checklist=checklist)

        def begin_exam() -> None:
            recorder.reset()
            live.new_exam()

        hub, exams = Hub(checklist), Exams(checklist, save, begin_exam)
        bound = listener.getsockname()[1]
        token = None if is_loopback(host) else secrets.token_urlsafe(16)
        app = make_app(
            hub,
            token=token,
            port=bound,
            new_exam=exams.end,
            report=lambda: report_html(recorder.report()),
        )
        options = {"region": chosen, "pixel_size_mm": pixel_size_mm}
        with _open(source, loop, model, (recorder, hub), options) as live:
            typer.echo(f"open {address_of(host, bound, token)}  (Ctrl-C ends)")
            try:
                show(live, app, hub, listener)
            finally:
                if save is not None and checklist.captured():
                    typer.echo(hub.end_exam(exams.end).words, err=True)


def _open(
    source: str | None, loop: bool, model: Model, sinks: Sequence[Sink], options: dict[str, Any]
) -> Stream:
    """The stream, its source opened: one that is not there is bad input, not a broken stream."""
    from fetalclip_edge.viewer.loop import LoopedSource

    text = str(DEMO_CLIP) if source is None else source
    try:
        looped = loop or source is None
        supply = LoopedSource(text) if looped else open_source(text)
        # A film is played; of pictures none is to be left out because it came too fast.
        policy: Policy = "all" if supply.still_pictures and not looped else "latest"
        live = stream(supply, model=model, policy=policy, sinks=sinks, **options)
        live.__enter__()
    except (OSError, ValueError, TypeError) as error:
        fail(str(error), BAD_INPUT)
    return live
