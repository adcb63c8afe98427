"""Write a clip of simulated fetal ultrasound: a head of known size glides into view.

    python -m benchmarks.simulate OUT.mp4

Every pixel is computed by `benchmarks.phantom` and `benchmarks.scanner`; none is taken from a
patient. The picture says SIMULATED, and the truth about the clip (`ClipTruth`) is stored as JSON
in the MP4's comment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import av
import cv2
import numpy as np
import typer
from av.video.frame import PictureType
from numpy.typing import NDArray

from benchmarks.phantom import Phantom, Pose
from benchmarks.scanner import Floats, Probe, Scanner, Screen

__all__ = ["ClipSettings", "ClipTruth", "Simulation", "app", "read_truth", "write_clip"]

_DYNAMIC_RANGE_DB = 60.0
_NOISE_DB = -61.0
_REVERBERATION_DB = -34.0

# Shares of the clip: the uterus alone, gliding to the head, a good plane, the freeze key.
_GLIDE_FROM, _HEAD_FROM, _FREEZE_FROM = 0.2, 0.42, 0.85


@dataclass(frozen=True)
class ClipSettings:
    """What to simulate.

    Attributes:
        seconds: length of the clip.
        fps: frames per second.
        width, height: pixels of a frame, even numbers.
        seed: of every random number; the same seed gives the same pictures.
        head_circumference_mm: outer edge of the skull, 80 to 350.

    Raises:
        ValueError: a value is out of range.
    """

    seconds: float = 10.0
    fps: int = 30
    width: int = 960
    height: int = 720
    seed: int = 0
    head_circumference_mm: float = 200.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("seconds", 0.1, 60),
            ("fps", 1, 120),
            ("width", 160, 3840),
            ("height", 120, 2160),
            ("seed", 0, 2**32 - 1),
            ("head_circumference_mm", 80, 350),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; give a number from {low} to {high}")
        if self.width % 2 or self.height % 2:
            raise ValueError(
                f"size is {self.width}x{self.height}; H.264 needs an even width and height"
            )

    @property
    def frames(self) -> int:
        """Frames in the clip, at least one."""
        return max(1, round(self.seconds * self.fps))

    @property
    def freeze_frame(self) -> int:
        """Index of the frame that the freeze key holds to the end."""
        return int(_FREEZE_FROM * self.frames)

    def command(self, name: str) -> str:
        """The command line that makes this clip."""
        return (
            f"python -m benchmarks.simulate {name} --seconds {self.seconds:g} --fps {self.fps} "
            f"--size {self.width}x{self.height} --seed {self.seed} "
            f"--head-circumference-mm {self.head_circumference_mm:g}"
        )


@dataclass(frozen=True)
class ClipTruth:
    """What is known for certain about a simulated clip, as its MP4 comment holds it.

    Attributes:
        simulated: always True.
        head_circumference_mm: outer edge of the skull.
        pixel_size_mm: millimetres per pixel, the same across and down.
        seed: of the random numbers.
        frames: number of frames.
        head_from_frame: from this frame on the whole head is in view.
        freeze_from_frame: from this frame on the picture stands still.
        command: what made the clip.
    """

    simulated: bool
    head_circumference_mm: float
    pixel_size_mm: float
    seed: int
    frames: int
    head_from_frame: int
    freeze_from_frame: int
    command: str


class Simulation:
    """The pictures of a clip.

    Attributes:
        settings: what is simulated.
        phantom: the uterus and the head.
        screen: where millimetres lie on the picture.
    """

    def __init__(self, settings: ClipSettings) -> None:
        self.settings = settings
        # A head beyond 200 mm needs a deeper picture and more room around it.
        depth = max(100.0, 10.0 * np.ceil(settings.head_circumference_mm / 20))
        probe = Probe(depth_mm=depth)
        self.scanner = Scanner(probe)
        self.screen = Screen(probe, settings.width, settings.height)
        self.phantom = Phantom(settings.head_circumference_mm, depth / 100, settings.seed)
        rng = np.random.default_rng([settings.seed, 1])
        self._noise = self.scanner.noise(rng) * 10 ** (_NOISE_DB / 20)
        self._near = self._reverberation(rng)
        self._contact_db = self._contact(rng)

    def pose(self, seconds: float) -> Pose:
        """Where probe and head are at a time: a glide, then a hand that is never quite still."""
        settings, k = self.settings, self.phantom.scale
        begin, end = _GLIDE_FROM * settings.seconds, _HEAD_FROM * settings.seconds
        share = np.clip((seconds - begin) / (end - begin), 0, 1)
        glide = share**3 * (share * (6 * share - 15) + 10)
        creep = min(seconds / max(begin, 1e-9), 1.0)
        breath = np.sin(2 * np.pi * seconds / 3.7)
        return Pose(
            probe_x_mm=float(k * ((-113 + 9 * creep) * (1 - glide)) + 1.2 * np.sin(1.1 * seconds)),
            probe_tilt_rad=float(np.deg2rad(1.5) * np.sin(0.9 * seconds + 0.6)),
            squeeze=float(0.010 + 0.008 * breath + 0.004 * np.sin(1.7 * seconds)),
            head_x_mm=float(1.3 * np.sin(0.8 * seconds)),
            head_y_mm=float(k * 55.0 + 0.8 * np.sin(1.3 * seconds + 1)),
            head_angle_rad=float(np.deg2rad(6.0 + 3.5 * np.sin(0.7 * seconds - 0.8))),
        )

    def frame(self, seconds: float) -> NDArray[np.uint8]:
        """The grey picture `(height, width)` at a time."""
        pose, scanner = self.pose(seconds), self.scanner
        rng = np.random.default_rng([self.settings.seed, 2, round(seconds * 1e6)])
        gain = self.phantom.gain_db_per_mm(pose, *scanner.points)
        gain = np.cumsum(gain, axis=0) * np.float32(scanner.probe.sample_mm)
        # A beam is as wide as its aperture, so the edges of shadows are soft.
        gain = cv2.GaussianBlur(gain, (0, 0), sigmaX=3.0, sigmaY=1.0) + self._contact_db
        transmission = np.power(np.float32(10), gain / 20)
        envelope = np.zeros(self._near.shape, np.float32)
        for signal in scanner.baseband(*self.phantom.scene(pose), transmission):
            # Noise drawn once and shifted at random: as good as new, and far cheaper.
            hiss = np.roll(self._noise, tuple(rng.integers(0, self._noise.shape)), axis=(0, 1))
            envelope += np.abs(signal + hiss + self._near)
        level = 20 * np.log10(envelope / len(scanner.probe.bands_mhz) + np.float32(1e-6))
        grey = np.clip(255 * (1 + level / _DYNAMIC_RANGE_DB), 0, 255)
        return self.screen.draw(grey.astype(np.float32))

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """All pictures of the clip in their order; from the freeze on the same one."""
        for index in range(self.settings.freeze_frame + 1):
            picture = self.frame(index / self.settings.fps)
            yield picture
        for _ in range(self.settings.freeze_frame + 1, self.settings.frames):
            yield picture

    def truth(self, name: str) -> ClipTruth:
        """What is known of the clip when it is written to a file of this name."""
        settings = self.settings
        return ClipTruth(
            simulated=True,
            head_circumference_mm=settings.head_circumference_mm,
            pixel_size_mm=self.screen.pixel_size_mm,
            seed=settings.seed,
            frames=settings.frames,
            head_from_frame=int(np.ceil(_HEAD_FROM * settings.frames)),
            freeze_from_frame=settings.freeze_frame,
            command=settings.command(name),
        )

    def _reverberation(self, rng: np.random.Generator) -> NDArray[np.complex64]:
        """Echoes between the probe and the skin: haze near the probe that moves with it."""
        probe = self.scanner.probe
        depth = np.arange(probe.samples, dtype=np.float32)[:, None] * probe.sample_mm
        haze = self.scanner.noise(rng)
        rings = haze.mean(axis=1, keepdims=True) * 8
        level = _REVERBERATION_DB - 1.9 * depth
        haze = (0.5 * haze + rings) * 10 ** (level / 20)
        return np.asarray(haze, np.complex64)

    def _contact(self, rng: np.random.Generator) -> Floats:
        """Gain of each beam in decibels: uneven contact, and less at the ends of the array."""
        guard_beams = self.scanner.points[0].shape[1]
        coarse = rng.normal(0, 1.6, (1, 24)).astype(np.float32)
        uneven = cv2.resize(coarse, (guard_beams, 1), interpolation=cv2.INTER_CUBIC)
        edge = np.linspace(-1, 1, guard_beams, dtype=np.float32)[None, :] ** 6
        return np.asarray(uneven - 5 * edge, np.float32)


def write_clip(
    path: Path,
    settings: ClipSettings,
    on_frame: Callable[[int], None] = lambda done: None,
) -> ClipTruth:
    """Simulate a clip and write it as an H.264 MP4 with its truth in the comment.

    Args:
        path: where to write.
        settings: what to simulate.
        on_frame: called with the number of frames written so far.

    Returns:
        What the comment says.
    """
    simulation = Simulation(settings)
    truth = simulation.truth(path.name)
    # A key frame every two seconds to seek to, and one where the picture freezes; none after it,
    # for a key frame would make the still picture flicker.
    frozen = truth.freeze_from_frame
    key_frames = {*range(0, frozen - 1, 2 * settings.fps), frozen}
    x264 = "keyint=infinite:scenecut=0:bframes=2:b-adapt=1"
    if frozen + 1 < truth.frames:
        # Frozen frames carry nothing new: so coarse that every block repeats the one before.
        x264 += f":zones={frozen + 1},{truth.frames - 1},q=51"
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        container.metadata["title"] = "Simulated fetal ultrasound"
        container.metadata["comment"] = json.dumps(asdict(truth))
        stream = container.add_stream("libx264", rate=Fraction(settings.fps))
        stream.width, stream.height, stream.pix_fmt = settings.width, settings.height, "yuv420p"
        stream.codec_context.thread_count = 1  # the same bytes on a machine of any size
        stream.options = {
            "crf": "27",
            "preset": "medium",
            "profile": "high",
            "forced-idr": "1",
            "x264-params": x264,
        }
        for index, picture in enumerate(simulation.frames()):
            frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, settings.fps)
            if index in key_frames:
                frame.pict_type = PictureType.I
            container.mux(stream.encode(frame))
            on_frame(index + 1)
        container.mux(stream.encode(None))
    return truth


def read_truth(path: Path) -> ClipTruth:
    """Read what a simulated clip says about itself.

    Raises:
        ValueError: the file is no clip of this generator.
    """
    with av.open(str(path)) as container:
        comment = container.metadata.get("comment", "")
    try:
        return ClipTruth(**json.loads(comment))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} was not written by benchmarks.simulate") from error


app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Argument(help="The MP4 to write.", metavar="OUT.mp4")],
    seconds: Annotated[float, typer.Option(help="Length of the clip.")] = 10.0,
    fps: Annotated[int, typer.Option(help="Frames per second.")] = 30,
    size: Annotated[str, typer.Option(help="Pixels of a frame, WIDTHxHEIGHT.")] = "960x720",
    seed: Annotated[int, typer.Option(help="The same seed gives the same pictures.")] = 0,
    head_circumference_mm: Annotated[
        float, typer.Option(help="Outer edge of the skull; 200 mm is a head of about 22 weeks.")
    ] = 200.0,
) -> None:
    """Write a clip of SIMULATED fetal ultrasound, with a head of known size.

    The probe first sees placenta, fluid and the wall of the uterus; after a fifth of the clip it
    glides to the head, holds a trans-thalamic plane with small motions, and for the last
    seventh the picture is frozen. Speckle comes from point scatterers that move with the
    tissue. No picture of a patient is used.

    The MP4's comment holds the truth as JSON: head circumference, pixel size, seed, and this
    command. Read it with benchmarks.simulate.read_truth, or: ffprobe -show_format OUT.mp4

    Example: python -m benchmarks.simulate head.mp4 --head-circumference-mm 250 --seconds 5
    """
    from rich.console import Console
    from rich.progress import Progress

    match = re.fullmatch(r"(\d+)x(\d+)", size)
    if match is None:
        raise typer.BadParameter(f"--size is {size!r}; write it as WIDTHxHEIGHT, such as 960x720")
    if out.suffix != ".mp4" or not out.parent.is_dir():
        raise typer.BadParameter(f"cannot write {out}; give an .mp4 file in a folder that exists")
    width, height = int(match[1]), int(match[2])
    try:
        settings = ClipSettings(seconds, fps, width, height, seed, head_circumference_mm)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    console = Console(stderr=True)
    with Progress(console=console) as progress:
        task = progress.add_task("Simulating", total=settings.frames)
        truth = write_clip(out, settings, lambda done: progress.update(task, completed=done))
    console.print(
        f"{out}: {truth.frames} simulated frames, {out.stat().st_size / 1e6:.2f} MB, "
        f"head circumference {truth.head_circumference_mm:g} mm, "
        f"pixel size {truth.pixel_size_mm:g} mm"
    )


if __name__ == "__main__":
    app()
