"""Preprocessing beside Pillow and OpenCV: `python -m benchmarks.preprocess > preprocess.json`.

Every alternative runs once a round on one thread, on the same frame, to a 224 x 224 float32 input.

- ours: `fetalclip_edge.preprocess.Preprocessor`, into a reused buffer.
- pillow: pad to a square, bicubic resize, normalise: the reference, and what FetalCLIP does.
- opencv: INTER_AREA resize, then pad (cheaper in that order), then blobFromImage. Its pixels are
  not the reference's.
- copy: the frame copied once into a reused buffer, the floor of anything that reads it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.timing import Timings, interleave, machine, print_report, table
from fetalclip_edge._native import instruction_sets
from fetalclip_edge.preprocess import CLIP_MEAN, CLIP_STD, Preprocessor, PreprocessSpec
from fetalclip_edge.results import ColorOrder

SIZE = 224
Pixels = NDArray[np.uint8]
Input = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A frame and the input that is made of it."""

    width: int
    height: int
    frame: ColorOrder
    channels: int

    @property
    def name(self) -> str:
        """What the report calls it."""
        target = "1 channel" if self.channels == 1 else "3 channels"
        return f"{self.width}x{self.height} {self.frame} to {target}"

    @property
    def mean(self) -> tuple[float, ...]:
        """CLIP's, for as many channels as there are."""
        return CLIP_MEAN[: self.channels]

    @property
    def std(self) -> tuple[float, ...]:
        """CLIP's, for as many channels as there are."""
        return CLIP_STD[: self.channels]

    def pixels(self) -> Pixels:
        """Smoothed noise; no alternative's time depends on what is in the picture."""
        shape = (self.height, self.width) + ((3,) if self.frame == "bgr" else ())
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        return np.asarray(cv2.GaussianBlur(noise, (0, 0), 2.0), dtype=np.uint8)


CASES = (
    Case(800, 540, "gray", 1),
    Case(800, 540, "gray", 3),
    Case(960, 720, "bgr", 1),
    Case(960, 720, "bgr", 3),
    Case(1920, 1080, "gray", 1),
    Case(1920, 1080, "gray", 3),
    Case(1920, 1080, "bgr", 1),
    Case(1920, 1080, "bgr", 3),
)


def ours(case: Case, frame: Pixels, instruction_set: str | None) -> Callable[[], Input]:
    """This package's preprocessing."""
    spec = PreprocessSpec(
        size=SIZE, color="gray" if case.channels == 1 else "rgb", mean=case.mean, std=case.std
    )
    preprocessor = Preprocessor(spec, instruction_set=instruction_set)
    out = np.empty(spec.shape, np.float32)
    return lambda: preprocessor(frame, color=case.frame, out=out)


def pillow(case: Case, frame: Pixels) -> Callable[[], Input]:
    """The reference, without copies that Pillow can do without."""
    mean, std = (np.array(values, np.float32) for values in (case.mean, case.std))
    mode = "L" if case.channels == 1 else "RGB"
    size, side = (case.width, case.height), max(case.width, case.height)
    corner = ((side - case.width) // 2, (side - case.height) // 2)

    def run() -> Input:
        if case.frame == "bgr":
            image = Image.frombuffer("RGB", size, frame, "raw", "BGR", 0, 1)
        else:
            image = Image.frombuffer("L", size, frame, "raw", "L", 0, 1)
        if image.mode != mode:
            image = image.convert(mode)
        square = Image.new(mode, (side, side))
        square.paste(image, corner)
        resized = square.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        levels = np.asarray(resized, np.float32).reshape(SIZE, SIZE, case.channels)
        return np.ascontiguousarray(((levels / 255 - mean) / std).transpose(2, 0, 1)[None])

    return run


def opencv(case: Case, frame: Pixels) -> Callable[[], Input]:
    """The usual fast way; averages areas, so it differs from what the model was trained on."""
    scale = SIZE / max(case.width, case.height)
    width, height = round(case.width * scale), round(case.height * scale)
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    bottom, right = SIZE - height - top, SIZE - width - left
    mean = tuple(255 * value for value in case.mean)
    std = np.array(case.std, np.float32).reshape(1, case.channels, 1, 1)

    def run() -> Input:
        image: Any = frame
        if case.frame == "bgr" and case.channels == 1:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        if case.frame == "gray" and case.channels == 3:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)
        swap = case.channels == 3
        blob: Input = cv2.dnn.blobFromImage(image, 1 / 255, mean=mean, swapRB=swap)
        blob /= std
        return blob

    return run


def copy(frame: Pixels) -> Callable[[], None]:
    """One pass over the frame."""
    target = np.empty_like(frame)
    return lambda: np.copyto(target, frame)


def measure(case: Case, rounds: int, instruction_set: str | None) -> dict[str, Timings]:
    """Timings of all alternatives of one case."""
    frame = case.pixels()
    return interleave(
        {
            "ours": ours(case, frame, instruction_set),
            "pillow": pillow(case, frame),
            "opencv": opencv(case, frame),
            "copy": copy(frame),
        },
        rounds,
    )


def summary(timings: dict[str, Timings]) -> dict[str, Any]:
    """Percentiles of each alternative, and how ours compares."""
    mine = timings["ours"]
    return {name: taken.to_dict() for name, taken in timings.items()} | {
        "times_faster_than_pillow": round(timings["pillow"].ratio_to(mine), 2),
        "times_faster_than_opencv": round(timings["opencv"].ratio_to(mine), 2),
        "copies_of_the_frame": round(mine.ratio_to(timings["copy"]), 2),
    }


def main() -> None:
    """Run all cases and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100, help="timings of each (default 100)")
    parser.add_argument(
        "--instruction-set", choices=instruction_sets(), help="default: the best of this machine"
    )
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    used = arguments.instruction_set or instruction_sets()[-1]
    results = {
        case.name: measure(case, arguments.rounds, arguments.instruction_set) for case in CASES
    }
    report = {
        "machine": machine(["numpy", "opencv-python", "pillow"]),
        "instruction_set": used,
        "threads": 1,
        "rounds": arguments.rounds,
        "cases": {name: summary(timings) for name, timings in results.items()},
    }
    header = ["frame to input", "ours ms", "p95", "pillow ms", "p95", "opencv ms", "p95"]
    header += ["x pillow", "x opencv", "copies"]
    rows = []
    for name, timings in results.items():
        row: list[object] = [name]
        for alternative in ("ours", "pillow", "opencv"):
            row += [timings[alternative].median, timings[alternative].percentile(95)]
        ratios = report["cases"][name]
        row += [ratios["times_faster_than_pillow"], ratios["times_faster_than_opencv"]]
        rows.append([*row, ratios["copies_of_the_frame"]])
    print_report(
        report, f"{used}, one thread, medians of {arguments.rounds} rounds\n" + table(header, rows)
    )


if __name__ == "__main__":
    main()
