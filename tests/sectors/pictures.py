"""Screens whose sector is known, since it was drawn: speckle within an outline, text around it."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.results import Region

Pixels = NDArray[np.uint8]
Corners = list[tuple[float, float]]

HEIGHT, WIDTH = 600, 800

FAN = Region(150, 60, 500, 440)
TRAPEZOID = Region(120, 40, 560, 480)
RECTANGLE = Region(140, 50, 430, 460)


@cache
def speckle(seed: int, level: float = 60.0, height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """Tissue: multiplicative noise of a few pixels' grain."""
    grain = np.random.default_rng(seed).gamma(2.0, level / 2, (height // 2, width // 2))
    smooth = cv2.GaussianBlur(cv2.resize(grain, (width, height)), (5, 5), 0)
    return np.clip(smooth, 0, 255).astype(np.uint8)


def fan() -> Pixels:
    """255 within a curved array's field: sides that meet above, arcs around where they meet."""
    # From the apex (400, -40): radii 120 and 540; the sides 27.59 degrees off the vertical, so that
    # the lower corners are 250 to either side, and the upper ones on line 60 or so.
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    radius = np.hypot(x - 400, y + 40)
    angle = np.abs(np.arctan2(x - 400, y + 40))
    side = np.arcsin(250 / 540)
    inside = (radius >= 113) & (radius <= 540) & (angle <= side)
    return (255 * inside).astype(np.uint8)


def polygon(corners: Corners) -> Pixels:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(mask, [np.array(corners, np.int32)], 255)
    return mask


def trapezoid() -> Pixels:
    return polygon([(220, 40), (579, 40), (679, 519), (120, 519)])


def rectangle() -> Pixels:
    return polygon([(140, 50), (569, 50), (569, 509), (140, 509)])


def tissue_in(mask: Pixels, seed: int = 0, level: float = 60.0) -> Pixels:
    """Speckle where the mask is set, black elsewhere."""
    return np.where(mask > 0, np.maximum(speckle(seed, level), 4), 0).astype(np.uint8)


def with_screen(picture: Pixels) -> tuple[Pixels, NDArray[np.bool_]]:
    """Text, a bar of greys, a ruler and a panel around a picture; and where they are."""
    over = np.zeros_like(picture)
    over[30:230, 12:24] = np.linspace(255, 20, 200)[:, None]
    for line, text in enumerate(("PATIENT A.", "12.03.1989", "C5-2 MI 0.9", "GA 20w1d", "2D 62%")):
        cv2.putText(over, text, (690, 60 + 24 * line), 0, 0.5, 230, 1, cv2.LINE_AA)
    for y in range(60, 520, 23):
        over[y : y + 2, 700:708] = 220
    over[530:590, 600:790] = 70
    cv2.putText(over, "Dist 1.24 cm", (606, 566), 0, 0.6, 240, 1, cv2.LINE_AA)
    cv2.circle(over, (60, 560), 22, 210, 3)
    drawn = (over > 0) & (picture == 0)
    return np.where(drawn, over, picture), drawn


def iou(first: Region, second: Region) -> float:
    a, b = np.zeros((2, HEIGHT, WIDTH), bool)
    for canvas, (x, y, width, height) in ((a, first), (b, second)):
        canvas[y : y + height, x : x + width] = True
    return float((a & b).sum() / (a | b).sum())


def around(mask: Pixels) -> Region:
    return Region(*cv2.boundingRect(mask))
