"""Take the documentation's pictures of the viewer, on the shipped clip of simulated ultrasound.

    python -m benchmarks.viewer_pictures docs

Needs Chromium (`apt install chromium`), the extras `browser` and `train` (Pillow), and for the
same typeface `apt install fonts-inter`. Writes `viewer.png` and the animation `viewer.webp`, whose
pictures stand for as long as they did on the screen.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from playwright.sync_api import sync_playwright

__all__ = ["app", "take_pictures"]

_SIZE = {"width": 800, "height": 480}
_STILL_SCALE = 1.5
_RECORDED_S, _EVERY_S = 13.0, 0.25
_CAPTURED_AFTER_S = 3.0
_PATIENCE_MS = 120_000

app = typer.Typer(add_completion=False)


@app.command()
def take_pictures(
    out: Annotated[Path, typer.Argument(help="Folder for viewer.png and viewer.webp")],
) -> None:
    """Take a picture and a short recording of the viewer on the shipped simulated clip."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None or not out.is_dir():
        typer.echo("error: needs a Chromium on the PATH, and a folder that is there", err=True)
        raise typer.Exit(2)
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        with _viewer() as address:
            still = browser.new_page(viewport=_SIZE, device_scale_factor=_STILL_SCALE)
            _write_still(still, address, out / "viewer.png")
            still.close()
        with _viewer() as address:
            _write_recording(browser.new_page(viewport=_SIZE), address, out / "viewer.webp")
        browser.close()


@contextmanager
def _viewer() -> Iterator[str]:
    command = [sys.executable, "-m", "fetalclip_edge.cli", "view", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[1]
        finally:
            process.terminate()


def _write_still(page: Any, address: str, path: Path) -> None:
    """The head in view, and held."""
    page.goto(address)
    page.wait_for_selector("[data-item=brain].done img", timeout=_PATIENCE_MS)
    page.wait_for_selector("[data-item=trans-ventricular].done img", timeout=_PATIENCE_MS)
    page.wait_for_selector("body[data-state=live]", timeout=_PATIENCE_MS)
    page.wait_for_timeout(1500)
    # A palette: the picture is grey, and the screen has few colours.
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    few = shot.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    typer.echo(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def _write_recording(page: Any, address: str, path: Path) -> None:
    """From no answer to the head, its capture, and the freeze key."""
    page.goto(address)
    page.wait_for_selector("body:not(.veiled)", timeout=_PATIENCE_MS)
    shots, times = [], []
    begin = time.monotonic()
    live_since: float | None = None
    captured = False
    while (now := time.monotonic()) - begin < _RECORDED_S:
        shots.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        times.append(now)
        state = page.get_attribute("body", "data-state")
        live_since = (live_since or now) if state == "live" else None
        if not captured and live_since is not None and now - live_since > _CAPTURED_AFTER_S:
            page.keyboard.press("c")
            captured = True
        page.wait_for_timeout(max(0.0, 1000 * (_EVERY_S - (time.monotonic() - now))))
    ends = [*times[1:], time.monotonic()]
    lasted = [round(1000 * (end - start)) for start, end in zip(times, ends, strict=True)]
    shots[0].save(
        path, save_all=True, append_images=shots[1:], duration=lasted, loop=0, quality=50, method=4
    )
    typer.echo(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {len(shots)} pictures")


if __name__ == "__main__":
    app()
