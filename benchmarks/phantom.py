"""A uterus with a fetal head of known size, made of point scatterers; no picture is copied.

Lengths are millimetres, echo levels decibels (a pixel of the brightest grey is 0 dB). The head
lies in a standard plane: an elliptical skull, the falx interrupted by the cavum septi pellucidi,
thalami, lateral ventricles with choroid plexus. Head coordinates: `u` from the occiput (-) to
the brow (+), `v` from the near to the far side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.scanner import PROBE_RADIUS_MM, Floats

__all__ = ["Head", "Phantom", "Pose", "Scatterers", "ellipse_perimeter_mm"]

Array = NDArray[np.floating[Any]]

SKULL_MM = 1.7
SCALP_MM = 2.2
_CEPHALIC_INDEX = 0.78
_DENSITY = 20.0  # scatterers per square millimetre: twenty in a resolution cell at the focus
_FLUID_DENSITY = 0.10
_SKULL_LOSS_DB_PER_MM = 1.9
_FLUID_GAIN_DB_PER_MM = 0.10


def ellipse_perimeter_mm(a: float, b: float) -> float:
    """Perimeter of an ellipse with semi-axes a and b (Ramanujan 1914, second formula)."""
    h = ((a - b) / (a + b)) ** 2
    return float(np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h))))


@dataclass(frozen=True)
class Pose:
    """Where the probe and the head are at one moment.

    Attributes:
        probe_x_mm: how far the probe has slid along the belly.
        probe_tilt_rad: rocking of the probe in the plane.
        squeeze: share by which the probe's pressure and breathing shorten all depths.
        head_x_mm, head_y_mm: centre of the head in the uterus.
        head_angle_rad: of the midline against the horizontal.
    """

    probe_x_mm: float = 0.0
    probe_tilt_rad: float = 0.0
    squeeze: float = 0.0
    head_x_mm: float = 0.0
    head_y_mm: float = 55.0
    head_angle_rad: float = 0.0

    def to_uterus(self, x_mm: Floats, y_mm: Floats) -> tuple[Floats, Floats]:
        """From the probe's coordinates to the uterus's, at rest depth times (1 - squeeze)."""
        c, s = np.float32(np.cos(self.probe_tilt_rad)), np.float32(np.sin(self.probe_tilt_rad))
        return c * x_mm - s * y_mm + np.float32(self.probe_x_mm), s * x_mm + c * y_mm

    def from_uterus(self, x_mm: Floats, y_mm: Floats) -> tuple[Floats, Floats]:
        """The way back of `to_uterus`."""
        c, s = np.float32(np.cos(self.probe_tilt_rad)), np.float32(np.sin(self.probe_tilt_rad))
        x_mm = x_mm - np.float32(self.probe_x_mm)
        return c * x_mm + s * y_mm, c * y_mm - s * x_mm

    def to_head(self, x_mm: Floats, y_mm: Floats) -> tuple[Floats, Floats]:
        """From the probe's coordinates to the head's."""
        x_mm, y_mm = self.to_uterus(x_mm, y_mm)
        x_mm = x_mm - np.float32(self.head_x_mm)
        y_mm = y_mm - np.float32(self.head_y_mm * (1 - self.squeeze))
        c, s = np.float32(np.cos(self.head_angle_rad)), np.float32(np.sin(self.head_angle_rad))
        return c * x_mm + s * y_mm, c * y_mm - s * x_mm

    def from_head(self, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """The way back of `to_head`."""
        c, s = np.float32(np.cos(self.head_angle_rad)), np.float32(np.sin(self.head_angle_rad))
        x_mm = c * u - s * v + np.float32(self.head_x_mm)
        y_mm = s * u + c * v + np.float32(self.head_y_mm * (1 - self.squeeze))
        return self.from_uterus(x_mm, y_mm)


@dataclass(frozen=True)
class Scatterers:
    """Points with the strength of their echoes; `(N,)` each.

    `nx` and `ny` are the unit normals of mirror-like reflectors and zero for diffuse ones.
    """

    x: Floats
    y: Floats
    amplitude: Floats
    nx: Floats
    ny: Floats

    @classmethod
    def join(cls, parts: list[Scatterers]) -> Scatterers:
        """All of them as one."""
        names = ("x", "y", "amplitude", "nx", "ny")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _scatter(
    rng: np.random.Generator,
    x: Array,
    y: Array,
    level_db: Array | float,
    density: float,
    normal: tuple[Array, Array] | None = None,
) -> Scatterers:
    # Equal strengths with a random sign: fewer scatterers make fully developed speckle.
    amplitude = (
        rng.choice((-1.0, 1.0), len(x)) * 10 ** (np.asarray(level_db) / 20) / np.sqrt(density)
    )
    nx, ny = (np.zeros(len(x)), np.zeros(len(x))) if normal is None else normal
    return Scatterers(*(np.asarray(part, np.float32) for part in (x, y, amplitude, nx, ny)))


def _texture(
    rng: np.random.Generator,
    x: Array,
    y: Array,
    grain: tuple[float, float],
) -> NDArray[np.float64]:
    """Smooth random field of about unit deviation, `grain` mm across and deep, at the points."""
    column, row = (x - x.min()) / grain[0], (y - y.min()) / grain[1]
    field = 1.5 * rng.standard_normal((int(row.max()) + 2, int(column.max()) + 2))
    top, left = row.astype(int), column.astype(int)
    down, right = row - top, column - left
    upper = field[top, left] * (1 - right) + field[top, left + 1] * right
    lower = field[top + 1, left] * (1 - right) + field[top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)


def _within(u: Array, v: Array, a: float, b: float) -> NDArray[np.bool_]:
    return (u / a) ** 2 + (v / b) ** 2 <= 1


class Head:
    """A fetal head in a trans-thalamic plane, with an outer skull circumference known exactly.

    Attributes:
        circumference_mm: of the outer skull edge, an ellipse.
        a, b: its semi-axes in millimetres; 2a is the occipitofrontal diameter, 2b the biparietal.
        scatterers: in head coordinates.
    """

    def __init__(self, circumference_mm: float, rng: np.random.Generator) -> None:
        self.circumference_mm = circumference_mm
        self.a = circumference_mm / ellipse_perimeter_mm(1.0, _CEPHALIC_INDEX)
        self.b = self.a * _CEPHALIC_INDEX
        self.scatterers = Scatterers.join([self._tissue(rng), self._skull(rng), *self._lines(rng)])

    def skull(self, u: Array, v: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which points are in bone, and which within the outer edge of it."""
        outer = _within(u, v, self.a, self.b)
        return outer & ~_within(u, v, self.a - SKULL_MM, self.b - SKULL_MM), outer

    def with_scalp(self, u: Array, v: Array) -> NDArray[np.bool_]:
        """Which points belong to the head, scalp included."""
        return _within(u, v, self.a + SCALP_MM, self.b + SCALP_MM)

    def _tissue(self, rng: np.random.Generator) -> Scatterers:
        width, height = self.a + SCALP_MM, self.b + SCALP_MM
        count = round(4 * width * height * _DENSITY)
        u, v = rng.uniform(-width, width, count), rng.uniform(-height, height, count)
        keep = self.with_scalp(u, v)
        u, v = u[keep], v[keep]
        a, b = self.a, self.b
        # The near half is hazier: echoes bounce between probe and skull.
        level = -48.0 - 5.0 * (v / b + 0.2) + 2.8 * _texture(rng, u, v, (4, 2.5))
        level += 2.2 * _texture(rng, u, v, (1.4, 1.0))

        def blob(cu: float, cv: float, ru: float, rv: float, to_db: float) -> None:
            away = ((u - cu * a) / (ru * a)) ** 2 + ((v - cv * b) / (rv * b)) ** 2
            weight = 1 / (1 + np.exp(np.minimum(8 * (away - 1), 40)))
            level[:] = level * (1 - weight) + weight * (
                to_db + 1.8 * _texture(rng, u, v, (1.8, 1.4))
            )

        for side in (-1, 1):
            blob(-0.38, 0.44 * side, 0.36, 0.17, -55 - 3 * side)  # body of the lateral ventricle
        blob(-0.04, 0.05, 0.30, 0.40, -45.5)  # midbrain and basal ganglia
        for side in (-1, 1):
            blob(0.0, 0.20 * side, 0.18, 0.15, -53)  # thalamus
            blob(0.55, 0.22 * side, 0.13, 0.10, -57)  # frontal horn
        blob(-0.42, 0.44, 0.20, 0.125, -34)  # choroid plexus, far side
        blob(-0.40, -0.43, 0.17, 0.10, -40)  # and near side, half lost in haze
        blob(0.38, 0.0, 0.10, 0.085, -62)  # cavum septi pellucidi
        blob(-0.25, 0.0, 0.07, 0.11, -39)  # quadrigeminal cistern's edge
        level[~_within(u, v, a - SKULL_MM, b - SKULL_MM)] = -51.5
        return _scatter(rng, u, v, level, _DENSITY)

    def _skull(self, rng: np.random.Generator) -> Scatterers:
        density = 60.0
        count = round(np.pi * (self.a + self.b) * SKULL_MM * density)
        turn, deep = rng.uniform(0, 2 * np.pi, count), rng.uniform(0, SKULL_MM, count)
        u, v = (self.a - deep) * np.cos(turn), (self.b - deep) * np.sin(turn)
        level = -4.5 + 3.0 * _texture(rng, turn * self.a, deep, (7, 4))
        level -= 7 * np.abs(2 * deep / SKULL_MM - 1) ** 2  # the edges of the bone are soft
        # Sutures: thin places in the bone, fixed for a head of any size.
        for suture in (0.62, 2.45, 3.9):
            level -= 14 * np.exp(-(((turn - suture) / 0.05) ** 2))
        return _scatter(rng, u, v, level, density, self._normal(u, v))

    def _normal(self, u: Array, v: Array) -> tuple[Array, Array]:
        nu, nv = u / self.a**2, v / self.b**2
        length = np.hypot(nu, nv)
        return nu / length, nv / length

    def _lines(self, rng: np.random.Generator) -> list[Scatterers]:
        """Thin reflectors: (from u, from v, to u, to v) as shares of a and b, sag, level."""
        strokes: list[tuple[float, float, float, float, float, float]] = [
            (-0.92, 0.0, -0.40, 0.01, 0.0, -24),  # falx, behind
            (-0.16, 0.0, 0.20, 0.0, 0.0, -36),  # third ventricle
            (0.52, 0.0, 0.92, 0.0, 0.0, -21),  # falx, in front
            (0.30, -0.075, 0.47, -0.07, 0.0, -25),  # walls of the cavum
            (0.30, 0.075, 0.47, 0.07, 0.0, -22),
            (-0.70, 0.33, -0.12, 0.26, 0.03, -32),  # medial walls of the ventricles
            (-0.66, -0.33, -0.14, -0.26, -0.03, -37),
            (-0.74, 0.56, -0.10, 0.62, 0.06, -31),  # lateral walls
            (0.44, 0.30, 0.64, 0.24, 0.02, -29),  # frontal horns
            (0.44, -0.30, 0.64, -0.24, -0.02, -33),
            (-0.06, 0.74, 0.34, 0.70, -0.05, -28),  # insula
            (0.02, -0.72, 0.30, -0.70, 0.05, -39),
            (-0.14, 0.36, 0.16, 0.34, 0.05, -40),  # rims of the thalami
            (-0.14, -0.36, 0.16, -0.34, -0.05, -43),
            (-0.46, 0.86, 0.40, 0.86, 0.0, -41),  # subarachnoid space
        ]
        # Short echoes of the brain's folds, nowhere in particular.
        for u0, v0 in rng.uniform((-0.55, -0.6), (0.6, 0.75), (26, 2)):
            du, dv = rng.normal(0.07, 0.03), rng.normal(0, 0.05)
            strokes.append((u0, v0, u0 + du, v0 + dv, 0.02, rng.normal(-37, 4)))
        lines = []
        for u0, v0, u1, v1, sag, level in strokes:
            du, dv = (u1 - u0) * self.a, (v1 - v0) * self.b
            length, thick = float(np.hypot(du, dv)), 0.55
            count = max(8, round(length * thick * 60))
            along = rng.uniform(0, 1, count)
            jitter = rng.normal(0, thick / 2, count)
            jitter += 0.3 * _texture(rng, along * length, np.zeros(count), (5.0, 1.0))
            bow = sag * self.b * 4 * along * (1 - along)
            normal = (np.full(count, -dv / length), np.full(count, du / length))
            u = u0 * self.a + along * du + jitter * normal[0]
            v = v0 * self.b + along * dv + jitter * normal[1] + bow
            fade = level + 3.0 + 4.0 * _texture(rng, along * length, np.zeros(count), (3.0, 1.0))
            fade -= 9 * np.abs(2 * along - 1) ** 4
            lines.append(_scatter(rng, u, v, fade, 60.0, normal))
        return lines


class Phantom:
    """The uterus and what is in it.

    Attributes:
        head: the fetal head.
        scale: all of the uterus is this much larger than it is around a head of 200 mm.
    """

    def __init__(self, head_circumference_mm: float, scale: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.scale = scale
        self.head = Head(head_circumference_mm, rng)
        self._tissue, self._fluid = self._mother(rng)

    def roof_mm(self, x: Array) -> Array:
        """Depth at which the amniotic fluid begins."""
        k = self.scale
        placenta = 20 / (1 + np.exp(((x / k + 108) ** 2 - 42**2) / 700))
        return np.asarray(
            k * (18.5 + 1.2 * np.sin(x / k / 27 + 2.2) + 0.6 * np.sin(x / k / 9) + placenta)
        )

    def floor_mm(self, x: Array) -> Array:
        """Depth at which it ends."""
        k = self.scale
        slope = np.where(x / k < -72, 34, 14)
        fold = 20 * np.exp(-0.5 * ((x / k + 72) / slope) ** 2)
        rise = 38 / (1 + np.exp(np.clip((53 - x / k) / 5.0, -40, 40)))
        rise += 3 * np.sin(x / k / 4) * (x / k > 40) * np.minimum((x / k - 40) / 8, 1)
        waves = 1.4 * np.sin(x / k / 24 + 0.3) + 0.7 * np.sin(x / k / 7 + 1)
        return np.asarray(k * (88.5 + waves - fold - rise))

    def scene(self, pose: Pose) -> tuple[Floats, Floats, Floats]:
        """Positions `(N,)` in the probe's coordinates, x and y, and amplitudes of all echoes."""
        shrink = np.float32(1 - pose.squeeze)
        tissue = _pressed(*pose.from_uterus(self._tissue.x, self._tissue.y * shrink))
        fluid = pose.from_uterus(self._fluid.x, self._fluid.y * shrink)
        outside = ~self.head.with_scalp(*pose.to_head(*fluid))
        echoes = self.head.scatterers
        head = pose.from_head(echoes.x, echoes.y)
        parts = [
            (*tissue, self._tissue.amplitude),
            (*fluid, self._fluid.amplitude * outside),
            (*head, echoes.amplitude * _mirror_gain(pose, head, echoes)),
        ]
        x, y, amplitude = (np.concatenate(part) for part in zip(*parts, strict=True))
        return x, y, amplitude

    def gain_db_per_mm(self, pose: Pose, x_mm: Floats, y_mm: Floats) -> Floats:
        """What a beam gains or loses on its way, beyond what time gain compensation expects.

        Fluid hardly attenuates, so tissue behind it shines; bone takes much, the more so the
        longer a beam grazes along it, which throws the shadows at the edges of the skull.
        """
        bone, inside = self.head.skull(*pose.to_head(x_mm, y_mm))
        x, y = pose.to_uterus(x_mm, y_mm)
        rest = y / (1 - pose.squeeze)
        fluid = ~inside & (rest > self.roof_mm(x)) & (rest < self.floor_mm(x))
        return np.asarray(fluid * _FLUID_GAIN_DB_PER_MM - bone * _SKULL_LOSS_DB_PER_MM, np.float32)

    def _mother(self, rng: np.random.Generator) -> tuple[Scatterers, Scatterers]:
        k = self.scale
        left, right, deep = -190 * k, 85 * k, 104 * k
        area = (right - left) * deep
        count = round(area * _DENSITY)
        x, y = rng.uniform(left, right, count), rng.uniform(0, deep, count)
        roof, floor = self.roof_mm(x), self.floor_mm(x)
        solid = (y < roof) | (y > floor)
        x, y, roof, floor = x[solid], y[solid], roof[solid], floor[solid]
        placenta = self._placenta(x, y)
        bare = k * 18.5
        streaks = _texture(rng, x, y, (14 * k, 1.3)) + 0.6 * _texture(rng, x, y, (5, 1.0))
        level = -46.0 + 3.0 * streaks
        level[y < 3] += 6  # skin
        level[(y > 3) & (y < 8 * k)] -= 4  # fat
        level[(y > bare - 5 * k) & (y < roof)] += 2  # wall of the uterus
        level[placenta] = -41.5 + 1.6 * _texture(rng, x, y, (3.0, 2.5))[placenta]
        wall = y > floor
        level[wall] = (
            -39.0 - 0.35 * (y - floor)[wall] / k + 2.8 * _texture(rng, x, y, (9 * k, 2.0))[wall]
        )
        tissue = [_scatter(rng, x, y, level, _DENSITY)]
        surfaces: list[tuple[Callable[[Array], Array], float]] = [
            (self.roof_mm, -32.0),
            (self.floor_mm, -29.0),
            (lambda at: k * (8 + 0.5 * np.sin(at / 19)), -36.0),  # fascia
            (lambda at: k * (12.5 + 0.7 * np.sin(at / 23 + 1)), -36.0),  # outer wall of the uterus
        ]
        for surface, level_db in surfaces:
            n = round((right - left) * 0.6 * 40)
            at = rng.uniform(left, right, n)
            fade = level_db + 2.5 * _texture(rng, at, np.zeros(n), (9.0, 1.0))
            tissue.append(_scatter(rng, at, surface(at) + rng.normal(0, 0.3, n), fade, 40.0))
        n = round(area * _FLUID_DENSITY)
        x, y = rng.uniform(left, right, n), rng.uniform(0, deep, n)
        wet = (y > self.roof_mm(x)) & (y < self.floor_mm(x))
        specks = _scatter(rng, x[wet], y[wet], -62.0 + rng.normal(0, 4, int(wet.sum())), 1.0)
        return Scatterers.join(tissue), specks

    def _placenta(self, x: Array, y: Array) -> NDArray[np.bool_]:
        return (y < self.roof_mm(x)) & (y > 19.0 * self.scale)


def _pressed(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Skin follows the round surface of the probe; the tissue beneath follows less and less."""
    x_near = np.clip(x, -PROBE_RADIUS_MM * 0.8, PROBE_RADIUS_MM * 0.8)
    rise = PROBE_RADIUS_MM - np.sqrt(PROBE_RADIUS_MM**2 - x_near**2)
    return x, (y - rise * np.exp(-((y / 24) ** 2))).astype(np.float32)


def _mirror_gain(pose: Pose, at: tuple[Floats, Floats], echoes: Scatterers) -> Floats:
    """Amplitude of reflectors seen askew: full where the beam meets them squarely."""
    tip_x, tip_y = pose.from_head(echoes.x + echoes.nx, echoes.y + echoes.ny)
    normal_x, normal_y = tip_x - at[0], tip_y - at[1]
    # The beams of a convex probe fan out from a point behind its surface.
    beam_x, beam_y = at[0], at[1] + np.float32(PROBE_RADIUS_MM)
    cosine = np.abs(normal_x * beam_x + normal_y * beam_y) / np.hypot(beam_x, beam_y)
    diffuse = (echoes.nx == 0) & (echoes.ny == 0)
    return np.where(diffuse, 1.0, 0.008 + 0.992 * cosine**4).astype(np.float32)
