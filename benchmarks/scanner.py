"""A convex ultrasound probe: point scatterers in, a scan-converted B-mode picture out.

The model is the usual linear one (Wagner et al., "Statistics of speckle in ultrasound B-scans",
IEEE Trans. Sonics Ultrason. 30(3), 1983): a scatterer at range r adds `a exp(-2ikr)` times the
point-spread function to the complex baseband signal. Many scatterers in one resolution cell give
fully developed speckle, whose envelope is Rayleigh distributed, and speckle moves with the tissue
because it is made by scatterers that do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["PROBE_RADIUS_MM", "Floats", "Probe", "Scanner", "Screen"]

Floats = NDArray[np.float32]

PROBE_RADIUS_MM = 55.0
"""Radius of the surface of a convex abdominal probe."""

_SPEED_OF_SOUND_MM_PER_US = 1.54
_GUARD_ROWS = 16
_GUARD_BEAMS = 32


@dataclass(frozen=True)
class Probe:
    """A convex array and the way it listens.

    Attributes:
        depth_mm: depth shown, measured from the middle of the probe's surface.
        radius_mm: radius of the probe's surface.
        half_angle_rad: the sector reaches this far to both sides.
        bands_mhz: centre frequencies of the sub-bands; their envelopes are averaged (frequency
            compounding), which calms the speckle as scanners do.
        pulse_mm: standard deviation of the pulse along the beam.
        sample_mm: spacing of samples along a beam.
        beam_rad: spacing of beams.
    """

    depth_mm: float = 100.0
    radius_mm: float = PROBE_RADIUS_MM
    half_angle_rad: float = np.deg2rad(27.0)
    bands_mhz: tuple[float, ...] = (2.7, 3.5, 4.3)
    pulse_mm: float = 0.27
    sample_mm: float = 0.125
    beam_rad: float = 0.003

    @property
    def samples(self) -> int:
        """Samples of a beam."""
        return round(self.depth_mm / self.sample_mm) + 1

    @property
    def beams(self) -> int:
        """Beams of a picture."""
        return 2 * round(self.half_angle_rad / self.beam_rad) + 1

    def beam_width_mm(self, depth_mm: Floats) -> Floats:
        """Standard deviation of the beam across; narrowest at the focus, wider beyond it."""
        focus = 0.55 * self.depth_mm
        away = (depth_mm - focus) / (0.62 * self.depth_mm)
        return np.asarray(0.62 * np.sqrt(1 + away**2), np.float32)


@dataclass
class Scanner:
    """Images scatterers with a probe. Coordinates are millimetres: x to the right, y in depth.

    Pictures in beam space are float32 `(samples, beams)`. The gain is set so that scatterers of
    unit amplitude, one per square millimetre, have a mean intensity of one at every depth: what
    the time gain compensation of a scanner is for.
    """

    probe: Probe = field(default_factory=Probe)

    @cached_property
    def _range_mm(self) -> Floats:
        rows = np.arange(-_GUARD_ROWS, self.probe.samples + _GUARD_ROWS, dtype=np.float32)
        return np.asarray(self.probe.radius_mm + rows * self.probe.sample_mm, np.float32)

    @cached_property
    def _angle_rad(self) -> Floats:
        middle = self.probe.beams // 2 + _GUARD_BEAMS
        beams = np.arange(self.probe.beams + 2 * _GUARD_BEAMS, dtype=np.float32)
        return np.asarray((beams - middle) * self.probe.beam_rad, np.float32)

    @cached_property
    def _across(self) -> Floats:
        """Transfer function of the beam's width for every sample, gain included."""
        probe, range_mm = self.probe, self._range_mm
        width = probe.beam_width_mm(range_mm - probe.radius_mm) / range_mm
        frequency = 2 * np.pi * np.fft.fftfreq(len(self._angle_rad), d=probe.beam_rad)
        transfer = np.exp(-0.5 * (width[:, None] * frequency[None, :]) ** 2)
        cell = (probe.sample_mm * probe.beam_rad) ** 2 * range_mm
        power = cell / (4 * np.pi * probe.pulse_mm * width)
        return np.asarray(transfer / np.sqrt(power)[:, None], np.float32)

    @property
    def points(self) -> tuple[Floats, Floats]:
        """Where every sample of the beam-space grid lies, guard samples included: x and y in mm."""
        range_mm, angle = self._range_mm[:, None], self._angle_rad[None, :]
        return range_mm * np.sin(angle), range_mm * np.cos(angle) - self.probe.radius_mm

    def baseband(
        self,
        x_mm: Floats,
        y_mm: Floats,
        amplitude: Floats,
        transmission: Floats | None = None,
    ) -> Iterator[NDArray[np.complex64]]:
        """The complex signal of each sub-band.

        Args:
            x_mm: `(N,)` positions of the scatterers to the right of the probe's middle.
            y_mm: `(N,)` their depths below it.
            amplitude: `(N,)` their strength.
            transmission: what is left of the sound on its way there and back, 0 to 1, on the
                grid of `points`; None for 1 everywhere.

        Yields:
            complex64 `(samples, beams)` for each of `probe.bands_mhz`.
        """
        probe = self.probe
        shape = (len(self._range_mm), len(self._angle_rad))
        range_mm = np.hypot(x_mm, y_mm + probe.radius_mm)
        row = (range_mm - self._range_mm[0]) / probe.sample_mm
        column = (np.arctan2(x_mm, y_mm + probe.radius_mm) - self._angle_rad[0]) / probe.beam_rad
        seen = (row >= 0) & (row < shape[0] - 1) & (column >= 0) & (column < shape[1] - 1)
        row, column, range_mm = row[seen], column[seen], range_mm[seen].astype(np.float64)
        top, left = row.astype(np.int64), column.astype(np.int64)
        down, right = row - top, column - left
        cell = top * shape[1] + left
        cells = np.concatenate([cell, cell + 1, cell + shape[1], cell + shape[1] + 1])
        share = np.concatenate(
            [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]
        ) * np.tile(amplitude[seen], 4)
        for band in probe.bands_mhz:
            phase = (4 * np.pi * band / _SPEED_OF_SOUND_MM_PER_US) * range_mm
            parts = []
            for wave in (np.cos(phase), -np.sin(phase)):
                part = np.bincount(cells, share * np.tile(wave, 4), shape[0] * shape[1])
                parts.append(part.reshape(shape).astype(np.float32))
            yield self._blur(parts, transmission)

    def noise(self, rng: np.random.Generator) -> NDArray[np.complex64]:
        """Thermal noise of unit mean intensity, with the grain of the receiver."""
        shape = (len(self._range_mm), len(self._angle_rad))
        scale = np.sqrt(self.probe.sample_mm * self.probe.beam_rad * self._range_mm / 2)
        parts = [
            rng.standard_normal(shape, np.float32) * scale[:, None].astype(np.float32)
            for _ in range(2)
        ]
        return self._blur(parts, None)

    def _blur(self, parts: list[Floats], transmission: Floats | None) -> NDArray[np.complex64]:
        sigma = self.probe.pulse_mm / self.probe.sample_mm
        size = 2 * int(np.ceil(4 * sigma)) + 1
        along = cv2.getGaussianKernel(size, sigma)
        real, imaginary = (
            cv2.sepFilter2D(
                part if transmission is None else part * transmission,
                cv2.CV_32F,
                np.ones(1),
                along,
            )
            for part in parts
        )
        signal = np.fft.fft(real + np.complex64(1j) * imaginary, axis=1)
        signal = np.fft.ifft(signal * self._across, axis=1)
        inside = signal[_GUARD_ROWS:-_GUARD_ROWS, _GUARD_BEAMS:-_GUARD_BEAMS]
        return np.asarray(inside, np.complex64)


@dataclass(frozen=True)
class Screen:
    """The picture that the scanner shows: `width` x `height` pixels, black outside the sector."""

    probe: Probe
    width: int
    height: int

    @cached_property
    def _rise_mm(self) -> float:
        """How much higher the ends of the probe's surface lie than its middle."""
        return float(self.probe.radius_mm * (1 - np.cos(self.probe.half_angle_rad)))

    @cached_property
    def pixel_size_mm(self) -> float:
        """Millimetres per pixel, the same across and down; the whole sector and a rim fit."""
        reach = (self.probe.radius_mm + self.probe.depth_mm) * np.sin(self.probe.half_angle_rad)
        down = (self.probe.depth_mm + self._rise_mm + 4) / self.height
        return float(round(max(down, (2 * reach + 5) / self.width), 6))

    def to_pixels(self, x_mm: float, y_mm: float) -> tuple[float, float]:
        """The pixel, column and row, that shows a point in millimetres."""
        top = (self.height * self.pixel_size_mm - self.probe.depth_mm + self._rise_mm) / 2
        return (
            x_mm / self.pixel_size_mm + (self.width - 1) / 2,
            (y_mm + top) / self.pixel_size_mm,
        )

    @cached_property
    def points(self) -> tuple[Floats, Floats]:
        """Where every pixel lies, x and y in mm, float32 `(height, width)` each."""
        left, top = self.to_pixels(0.0, 0.0)
        column, row = np.meshgrid(np.arange(self.width), np.arange(self.height))
        x_mm, y_mm = (column - left) * self.pixel_size_mm, (row - top) * self.pixel_size_mm
        return x_mm.astype(np.float32), y_mm.astype(np.float32)

    @cached_property
    def _maps(self) -> tuple[Floats, Floats]:
        x_mm, y_mm = self.points
        range_mm = np.hypot(x_mm, y_mm + self.probe.radius_mm)
        angle = np.arctan2(x_mm, y_mm + self.probe.radius_mm)
        beam = angle / self.probe.beam_rad + self.probe.beams // 2
        sample = (range_mm - self.probe.radius_mm) / self.probe.sample_mm
        return beam.astype(np.float32), sample.astype(np.float32)

    def scan_convert(self, beams: Floats) -> Floats:
        """From beam space `(samples, beams)` to the screen `(height, width)`."""
        return np.asarray(
            cv2.remap(beams, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT),
            np.float32,
        )

    def draw(self, beams: Floats) -> NDArray[np.uint8]:
        """The finished picture: grey values 0 to 255 of beam space, scale and notice."""
        picture = np.rint(self.scan_convert(beams)).astype(np.uint8)
        self._draw_scale(picture)
        unit = self._unit
        _write(picture, "SIMULATED", (4 * unit, 10 * unit), 0.25 * unit)
        return picture

    @property
    def _unit(self) -> int:
        """Size of what is drawn beside the sector, in pixels."""
        return max(1, round(self.height / 240))

    def _draw_scale(self, picture: NDArray[np.uint8]) -> None:
        """Draw the depth scale: a tick every 10 mm, a long one with its label every 50 mm."""
        unit = self._unit
        for depth in range(0, int(self.probe.depth_mm) + 1, 10):
            row = round(self.to_pixels(0.0, float(depth))[1])
            long = depth % 50 == 0
            picture[row, self.width - (4 if long else 2) * unit - unit : self.width - unit] = 190
            if long and depth:
                _write(picture, str(depth), (self.width - 14 * unit, row - 2 * unit), 0.14 * unit)


def _write(picture: NDArray[np.uint8], text: str, at: tuple[int, int], size: float) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, 190, 1, cv2.LINE_AA)
