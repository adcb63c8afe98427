"""What commands of the command line have in common: options, and the model they load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fetalclip_edge.backends import BACKENDS, MOST_THREADS
from fetalclip_edge.cli_errors import BAD_INPUT, FAILED, fail
from fetalclip_edge.errors import BackendError, BundleError
from fetalclip_edge.model import Model, load
from fetalclip_edge.tasks.growth import CHARTS, DEFAULT_CHART

__all__ = [
    "BackendOption",
    "BundleOption",
    "ChartOption",
    "PixelSizeOption",
    "SourceArgument",
    "ThreadsOption",
    "load_model",
    "loading",
]

SourceArgument = Annotated[
    str, typer.Argument(metavar="SOURCE", help="Camera, video, DICOM, folder, URL, pipeline")
]
PixelSizeOption = Annotated[
    float | None,
    typer.Option(
        "--pixel-size-mm",
        metavar="X",
        help="Millimetres per pixel, in place of what the source says; of one depth and zoom",
    ),
]
BundleOption = Annotated[
    Path | None,
    typer.Option("--bundle", metavar="DIR", help="Model bundle, in place of the shipped one"),
]
BackendOption = Annotated[
    str, typer.Option("--backend", metavar="NAME", help=f"auto, {', '.join(BACKENDS)}")
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, max=MOST_THREADS, help="CPU threads for one frame")
]
ChartOption = Annotated[
    str,
    typer.Option("--chart", metavar="NAME", help=f"Growth chart of the age: {', '.join(CHARTS)}"),
]


def load_model(
    bundle: Path | None, backend: str, threads: int, chart: str = DEFAULT_CHART
) -> Model:
    """The model that options ask for; ends the command when there is none."""
    with loading():
        return load(bundle, backend, threads=threads, chart=chart)


@contextmanager
def loading() -> Iterator[None]:
    """End with the right exit code when a bundle or a backend cannot be loaded."""
    try:
        yield
    except BackendError as error:
        fail(str(error), FAILED)
    except (BundleError, ValueError) as error:
        fail(str(error), BAD_INPUT)
