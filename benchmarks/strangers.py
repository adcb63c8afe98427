"""Pictures that are no fetal ultrasound, each a file as a user might hand it over.

Real ones: adult ultrasound of pydicom and pydicom-data, and what scikit-image and scikit-learn
ship. Made ones: screens of programs, test cards, noise and blank pictures. All are the same at
every call, and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import examples
from pydicom.data import get_testdata_file
from sklearn.datasets import load_sample_images

__all__ = ["Stranger", "gather"]

_ULTRASOUND = {
    "adult heart ultrasound": ("color3d_jpeg_baseline.dcm",),
    "adult pelvis ultrasound": ("OBXXXX1A.dcm", "gdcm-US-ALOKA-16.dcm"),
}
_LEAST_SIDE = 48
_MADE = 24
"""Pictures of each kind that is made."""

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Stranger:
    """A file that shows no fetus.

    Attributes:
        kind: what it shows.
        source: which pictures belong together, as frames of a cine and pieces of a photograph do.
        path: image or DICOM file.
    """

    kind: str
    source: str
    path: Path


def gather(folder: Path) -> list[Stranger]:
    """All of them; those that are no files yet are written into a folder.

    Raises:
        FileNotFoundError: a package whose pictures are needed is not installed.
    """
    found = list(_ultrasound())
    pictures = {"photographs": _photographs(), "screens": _screens(), "test cards": _test_cards()}
    pictures |= {"noise": _noise(), "blank": _blank()}
    for kind, named in pictures.items():
        for number, (source, picture) in enumerate(named):
            path = folder / f"{kind.replace(' ', '_')}_{number:03}.png"
            cv2.imwrite(str(path), picture)
            found.append(Stranger(kind, f"{kind}: {source}", path))
    return found


def _ultrasound() -> Iterator[Stranger]:
    for kind, names in _ULTRASOUND.items():
        for name in names:
            path = get_testdata_file(name, download=False)
            if path is None:
                raise FileNotFoundError(f"{name} is missing: pip install pydicom-data==1.0.0")
            yield Stranger(kind, name, Path(str(path)))
    path = examples.get_path("ybr_color")
    yield Stranger("adult heart ultrasound", path.name, path)


def _photographs() -> Iterator[tuple[str, Picture]]:
    """Whole and in four pieces, BGR or grey."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the pictures of scikit-image are missing: pip install scikit-image"
        )
    images = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    shipped = {name: np.asarray(image)[:, :, ::-1] for name, image in images.items()}
    for path in sorted((Path(spec.origin).parent / "data").glob("*.[pj][np]g")):
        image = cv2.imread(str(path), cv2.IMREAD_ANYCOLOR)
        if image is not None:
            shipped[path.stem] = np.asarray(image, np.uint8)
    for name, image in shipped.items():
        height, width = image.shape[:2]
        if min(height, width) < _LEAST_SIDE:
            continue
        yield name, image
        for top in (0, height // 2):
            for left in (0, width // 2):
                piece = image[top : top + height // 2, left : left + width // 2]
                if min(piece.shape[:2]) >= _LEAST_SIDE:
                    yield name, np.ascontiguousarray(piece)


def _screens() -> Iterator[tuple[str, Picture]]:
    """Windows, tables and text of programs, dark and light."""
    for seed in range(_MADE):
        rng = np.random.default_rng(seed)
        width, height = ((1280, 720), (1920, 1080), (1024, 768), (800, 600))[seed % 4]
        dark = seed % 2 == 0
        ground, ink = (rng.integers(8, 40), 220) if dark else (rng.integers(200, 250), 30)
        screen = np.full((height, width, 3), ground, np.uint8)
        for _ in range(rng.integers(1, 4)):
            _draw_window(screen, rng, int(ink), dark)
        bar = int(rng.integers(24, 60))
        screen[:bar] = rng.integers(0, 256, 3)
        cv2.putText(screen, "File  Edit  View  Help", (10, bar - 8), 0, 0.6, (ink,) * 3, 1)
        yield f"{seed}", screen


def _draw_window(screen: Picture, rng: np.random.Generator, ink: int, dark: bool) -> None:
    height, width = screen.shape[:2]
    left, top = int(rng.integers(0, width // 2)), int(rng.integers(60, height // 2))
    right, bottom = left + int(rng.integers(250, width // 2)), top + int(rng.integers(200, 400))
    face = int(rng.integers(30, 70)) if dark else int(rng.integers(225, 256))
    title = tuple(map(int, rng.integers(0, 256, 3)))
    cv2.rectangle(screen, (left, top), (right, bottom), (face,) * 3, -1)
    cv2.rectangle(screen, (left, top), (right, top + 26), title, -1)
    cv2.rectangle(screen, (left, top), (right, bottom), (ink,) * 3, 1)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz 0123456789.:-"))
    table = rng.random() < 0.5
    for line in range(top + 48, min(bottom, height) - 8, 22):
        text = "".join(rng.choice(letters, rng.integers(5, 36)))
        cv2.putText(screen, text, (left + 10, line), 0, 0.5, (ink,) * 3, 1)
        if table:
            cv2.line(screen, (left, line + 6), (right, line + 6), (ink,) * 3, 1)


def _test_cards() -> Iterator[tuple[str, Picture]]:
    """Bars, checks, ramps, rings and grids, as signal generators and capture cards show them."""
    cards = (_bars, _checks, _ramp, _rings, _grid)
    for seed in range(_MADE):
        card = cards[seed % len(cards)]
        size = ((720, 1280), (1080, 1920), (480, 640), (600, 800))[seed // len(cards) % 4]
        yield card.__name__, card(*size, seed)


def _bars(height: int, width: int, seed: int) -> Picture:
    colors = np.array([[c * 191 for c in np.unravel_index(7 - i, (2, 2, 2))] for i in range(7)])
    card = np.repeat(colors[np.arange(width) * 7 // width][None], height, axis=0)
    foot = height * (2 + seed % 3) // 4
    card[foot:] = (np.arange(width) * 8 // width * 36)[None, :, None]
    return card.astype(np.uint8)


def _checks(height: int, width: int, seed: int) -> Picture:
    side = 8 << seed % 4
    y, x = np.mgrid[:height, :width] // side
    return np.asarray((x + y) % 2 * 255, np.uint8)


def _ramp(height: int, width: int, seed: int) -> Picture:
    y, x = np.mgrid[:height, :width]
    steps = (256, 16, 8)[seed % 3]
    level = x / width if seed % 2 else (x / width + y / height) / 2
    return np.asarray(np.floor(level * steps) / steps * 255, np.uint8)


def _rings(height: int, width: int, seed: int) -> Picture:
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height / 2, x - width / 2)
    return np.asarray(127.5 + 127.5 * np.cos(distance**2 / (500 + 400 * seed)), np.uint8)


def _grid(height: int, width: int, seed: int) -> Picture:
    card = np.full((height, width), 90, np.uint8)
    step = 40 + 8 * (seed % 5)
    card[::step] = card[:, ::step] = 230
    cv2.circle(card, (width // 2, height // 2), height * 2 // 5, 255, 3)
    cv2.putText(card, "NO INPUT", (width // 2 - 90, height // 2), 0, 1.2, 255, 2)
    return card


def _noise() -> Iterator[tuple[str, Picture]]:
    """White and coarser, of a whole screen or around a grey."""
    for seed in range(_MADE):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(480, 640)).astype(np.float32)
        blur = (0.0, 1.0, 2.5, 6.0)[seed % 4]
        if blur:
            noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), blur), np.float32)
        noise *= (20, 45, 80)[seed % 3] / noise.std()
        yield f"{seed}", np.clip(noise + (40, 110)[seed % 2], 0, 255).astype(np.uint8)


def _blank() -> Iterator[tuple[str, Picture]]:
    """One colour, with the slight noise of a capture card or without."""
    for seed in range(_MADE):
        rng = np.random.default_rng(seed)
        color = (0, 0, 0) if seed % 4 == 0 else rng.integers(0, 256, 3)
        screen = np.full((480, 640, 3), color, np.float64)
        if seed % 2:
            screen += rng.normal(0, 1.0, screen.shape)
        yield f"{seed}", np.clip(np.round(screen), 0, 255).astype(np.uint8)
