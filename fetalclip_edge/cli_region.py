"""`--region` and `--region-profile`, of every command that has frames."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from fetalclip_edge.cli_errors import BAD_INPUT, fail
from fetalclip_edge.errors import ProfileError
from fetalclip_edge.geometry import RegionChoice
from fetalclip_edge.results import Region
from fetalclip_edge.sectors import read_profile

__all__ = ["ProfileOption", "RegionOption", "region_of"]

RegionOption = Annotated[
    str | None,
    typer.Option(
        "--region",
        metavar="X,Y,W,H|auto",
        help="The ultrasound within the frame, in pixels: nothing else is answered for, shown or "
        "saved. auto finds it in the picture; where it finds none, all is shown and saved",
    ),
]
ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--region-profile",
        metavar="FILE",
        help="The same for one scanner's screen, written down as YAML (see docs/sector.md)",
    ),
]


def region_of(region: str | None, profile: Path | None) -> RegionChoice:
    """What the two options say together; ends the command when that is nothing usable."""
    if region is not None and profile is not None:
        fail("give --region or --region-profile, not both", BAD_INPUT)
    if profile is not None:
        try:
            return read_profile(profile)
        except ProfileError as error:
            fail(str(error), BAD_INPUT)
    if region is None:
        return None
    if region == "auto":
        return "auto"
    if not re.fullmatch(r"\d{1,5}(,\d{1,5}){3}", region):
        fail(f"--region must be X,Y,WIDTH,HEIGHT in pixels, or auto, not {region!r}", BAD_INPUT)
    return Region(*(int(number) for number in region.split(",")))
