"""A still picture of a recording and its answers: frames above, what was said of them below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.colors import STATE_COLORS
from fetalclip_edge.demo import passages
from fetalclip_edge.errors import SourceError
from fetalclip_edge.pixels import encode_png, in_color, ultrasound
from fetalclip_edge.results import PLANES, Result
from fetalclip_edge.sources import open_source
from fetalclip_edge.words import NO_DEVICE, percent

__all__ = ["draw_summary"]

_SHOWN = 3
_TILE_WIDTH, _GAP, _MARGIN = 420, 14, 24
_ROW, _LABEL_WIDTH, _HEADER, _FOOTER = 26, 110, 46, 64

_BACKGROUND, _TEXT, _QUIET = (22, 24, 28), (240, 240, 240), (160, 160, 160)
_FONT = cv2.FONT_HERSHEY_DUPLEX


def draw_summary(clip: Path, results: Sequence[Result], out: Path, *, title: str) -> None:
    """Draw a PNG: three frames with their answers, and the scores of every plane over time.

    Args:
        clip: the recording.
        results: its results, one for each frame, in order.
        out: where to write the PNG.
        title: what the pictures show; say "simulated" where they are.

    Raises:
        ValueError: there are no results.
        SourceError: the PNG cannot be written.
    """
    if not results:
        raise ValueError("results is empty: there is nothing to draw")
    moments = [round((2 * i + 1) * len(results) / (2 * _SHOWN)) for i in range(_SHOWN)]
    moments = [min(moment, len(results) - 1) for moment in moments]
    frames = _read_frames(clip, moments)
    tiles = [_tile(frames[moment], results[moment]) for moment in moments]
    width = 2 * _MARGIN + _SHOWN * _TILE_WIDTH + (_SHOWN - 1) * _GAP
    chart = _chart(results, width - 2 * _MARGIN)
    height = _HEADER + tiles[0].shape[0] + _GAP + chart.shape[0] + _FOOTER
    canvas = np.full((height, width, 3), _BACKGROUND, dtype=np.uint8)
    _write(canvas, f"fetalclip-edge on {title}", (_MARGIN, 32), 0.7)
    for number, tile in enumerate(tiles):
        left = _MARGIN + number * (_TILE_WIDTH + _GAP)
        canvas[_HEADER : _HEADER + tile.shape[0], left : left + _TILE_WIDTH] = tile
    top = _HEADER + tiles[0].shape[0] + _GAP
    canvas[top : top + chart.shape[0], _MARGIN : width - _MARGIN] = chart
    _write(canvas, NO_DEVICE, (_MARGIN, height - 16), 0.55, _QUIET)
    try:
        out.write_bytes(encode_png(canvas))
    except OSError as error:
        raise SourceError(f"{out} cannot be written: {error.strerror}") from error


def _read_frames(clip: Path, moments: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    kept: dict[int, NDArray[np.uint8]] = {}
    with open_source(clip) as source:
        for frame in source:
            if frame.index in moments:
                kept[frame.index] = in_color(ultrasound(frame))
    return kept


def _tile(image: NDArray[np.uint8], result: Result) -> NDArray[np.uint8]:
    """A frame with its answer below, `(H, _TILE_WIDTH, 3)`."""
    height = round(image.shape[0] * _TILE_WIDTH / image.shape[1])
    scaled = cv2.resize(image, (_TILE_WIDTH, height), interpolation=cv2.INTER_AREA)
    caption = np.full((62, _TILE_WIDTH, 3), _BACKGROUND, dtype=np.uint8)
    state, plane = str(result.state), result.plane
    color = STATE_COLORS[state]
    cv2.rectangle(caption, (0, 0), (_TILE_WIDTH, 5), color, cv2.FILLED)
    if result.reason is None:
        _write(caption, f"{plane.label}  {percent(plane.confidence)}", (6, 32), 0.75)
    else:
        _write(caption, "no answer", (6, 32), 0.75, _QUIET)
    _write(caption, f"{state.replace('_', ' ')}   {result.pts_s or 0:.1f} s", (6, 54), 0.5, color)
    return np.vstack([np.asarray(scaled, dtype=np.uint8), caption])


def _chart(results: Sequence[Result], width: int) -> NDArray[np.uint8]:
    """A band for each plane, bright where its score is high, and one for the state."""
    plot = width - _LABEL_WIDTH
    columns = np.linspace(0, len(results) - 1, plot).round().astype(int)
    chart = np.full((_ROW * (len(PLANES) + 1) + 26, width, 3), _BACKGROUND, dtype=np.uint8)
    for row, label in enumerate((*PLANES, "state")):
        top = row * _ROW
        _write(chart, label, (0, top + 18), 0.5, _TEXT)
        if label == "state":
            band = np.array([STATE_COLORS[str(results[i].state)] for i in columns])
        else:
            scores = np.array([results[i].plane.scores[label] for i in columns])
            band = np.outer(scores, (240, 240, 240)) + np.outer(1 - scores, (50, 54, 62))
        chart[top + 3 : top + _ROW - 3, _LABEL_WIDTH:] = band.astype(np.uint8)
    _name_states(chart, results, top=len(PLANES) * _ROW, plot=plot)
    last_s = results[-1].pts_s or 0.0
    for fraction in (0.0, 0.5, 1.0):
        text = f"{fraction * last_s:.0f} s"
        left = _LABEL_WIDTH + round(fraction * plot) - round(fraction * 30)
        _write(chart, text, (left, chart.shape[0] - 6), 0.45, _QUIET)
    return chart


def _name_states(
    chart: NDArray[np.uint8], results: Sequence[Result], *, top: int, plot: int
) -> None:
    """Write every state into its stretch of the band, where there is room: not by colour alone."""
    done = 0
    for passage in passages(results):
        left = _LABEL_WIDTH + round(done * plot / len(results))
        done += passage.frames
        name = passage.state.replace("_", " ")
        (wide, _), _ = cv2.getTextSize(name, _FONT, 0.45, 1)
        if passage.frames * plot / len(results) > wide + 12:
            _write(chart, name, (left + 6, top + 18), 0.45, _BACKGROUND)


def _write(
    canvas: NDArray[np.uint8],
    text: str,
    position: tuple[int, int],
    scale: float,
    color: tuple[int, int, int] = _TEXT,
) -> None:
    cv2.putText(canvas, text, position, _FONT, scale, color, 1, cv2.LINE_AA)
