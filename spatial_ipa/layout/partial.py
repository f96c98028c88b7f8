"""Poses of training slides that may hold different parts of a tissue, in one frame.

Slides of the same tissue lie on each other: their centres and sizes are those of the tissue, and
only rotations are sought (:mod:`spatial_ipa.layout.registration`).  That assumption is checked: the
gain of each slide there, given those before it (:mod:`spatial_ipa.layout.expression_field`), is
high if they agree and far below 0 if they hold different parts.  If one is, or if their sizes
differ by more than a factor of 1.2 and more is gained so, the slides are placed with rotation,
reflection and shift free: after the first always the one whose best pose gains most per cell, among
poses that bring a tenth of its cells within l of those placed, on a grid of angles and shifts and
then by Nelder and Mead's simplex.

Their centres and sizes then say nothing.  The unit of a slide is that of the first slide's file, or
the one in which the median distances to the nearest spot agree, whichever gains more; the latter
where these two differ by more than a factor of 1.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from spatial_ipa.geometry.gauge import gauge_fix_array
from spatial_ipa.layout.expression_field import (
    COUNTS,
    ExpressionField,
    FieldSettings,
    leading_features,
)
from spatial_ipa.layout.registration import slide_rotations

Array = NDArray[np.float64]

_CONTRADICTED = -0.1  # gain of a cell below which slides do not hold the same tissue
_SAME_SIZE = 1.2  # ratio of sizes
_SAME_UNIT, _SAME_SPACING = 1.5, 1.05  # ratios of spacings, up to which
_FIELD = 768  # placed cells that predict
_SEARCHED, _POLISHED = 128, 512  # cells of a slide
_ANGLES = 24
_TOUCHING = 0.1  # share of cells


@dataclass(frozen=True, eq=False)
class Pose:
    """Of a slide in the frame: x -> scale x rotation + shift, x gauge-fixed row vectors.

    Attributes:
        scale: of the slide's RMS radius.
        rotation: (2, 2) orthogonal.
        shift: (2,).
    """

    scale: float
    rotation: Array
    shift: Array

    def apply(self, x: Array) -> Array:
        """(n, 2) in the frame of gauge-fixed positions (n, 2)."""
        return self.scale * (x @ self.rotation) + self.shift


def slide_poses(
    features: Sequence[np.ndarray], xy: Sequence[np.ndarray], *, k: int = 10
) -> list[Pose]:
    """Poses in one frame; the first slide keeps its own where all hold the same tissue.

    Where they do not, the frame is that in which all cells together have mean 0 and RMS radius 1.

    Args:
        features: (n_s, d) per slide, comparable between slides, cells in random order.
        xy: (n_s, 2) per slide, any pose.
        k: neighbours of the mutual matching.

    Raises:
        ValueError: as :func:`~spatial_ipa.layout.registration.slide_rotations`.
    """
    rotations = slide_rotations(features, xy, k=k)
    same = [Pose(1.0, r, np.zeros(2)) for r in rotations]
    if len(xy) == 1:
        return same
    cells = _Cells.of(features, [gauge_fix_array(x) for x in xy])
    gains, sizes = cells.gains(same), _sizes(xy)
    contradicted = min(gains) < _CONTRADICTED
    sized = all(any(1 / _SAME_SIZE < size < _SAME_SIZE for size in each) for each in sizes)
    if sized and not contradicted:
        return same
    free = cells.placed(sizes)
    return cells.centred(free) if contradicted or sum(cells.gains(free)) > sum(gains) else same


def _sizes(xy: Sequence[np.ndarray]) -> list[tuple[float, ...]]:
    """RMS radius of each slide over that of the first, in every unit that may be right."""
    radius, spacing = [], []
    for x in xy:
        points = np.unique(np.asarray(x, dtype=np.float64), axis=0)
        distance = cKDTree(points).query(points, k=min(2, len(points)))[0]
        spacing.append(float(np.median(distance[..., -1])))
        radius.append(float(np.sqrt(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean())))
    found: list[tuple[float, ...]] = [(1.0,)]
    for r, d in zip(radius[1:], spacing[1:], strict=True):
        size, unit = r / radius[0], d / spacing[0]
        apart = max(unit, 1 / unit)
        units = (1.0,) if apart < _SAME_SPACING else (1.0, unit) if apart < _SAME_UNIT else (unit,)
        found.append(tuple(size / u for u in units))
    return found


@dataclass(frozen=True, eq=False)
class _Cells:
    """Features (n_s, m) and gauge-fixed positions (n_s, 2) of every slide, and their fields."""

    features: list[Array]
    xy: list[Array]
    settings: FieldSettings

    @staticmethod
    def of(features: Sequence[np.ndarray], xy: list[Array]) -> _Cells:
        leading = leading_features(features)
        return _Cells(leading, xy, FieldSettings.fitted(leading, xy))

    def field(self, poses: Sequence[Pose], slides: Sequence[int]) -> ExpressionField:
        """Given up to 768 cells of some slides at their poses."""
        size = _FIELD // len(slides)
        return ExpressionField.given(
            np.concatenate([self.features[s][:size] for s in slides]),
            np.concatenate([poses[s].apply(self.xy[s][:size]) for s in slides]),
            self.settings,
        )

    def gains(self, poses: Sequence[Pose]) -> list[float]:
        """Of a cell of every slide but the first at its pose, given the slides before it."""
        found = []
        for s in range(1, len(poses)):
            field, f = self.field(poses, range(s)), self.features[s][:_POLISHED]
            gain = field.gains(f, poses[s].apply(self.xy[s][: len(f)]))
            found.append(float(gain.max()) / len(f))
        return found

    def placed(self, sizes: Sequence[tuple[float, ...]]) -> list[Pose]:
        """Poses of slides, each of one of its sizes, one after the other."""
        poses = [Pose(size[0], np.eye(2), np.zeros(2)) for size in sizes]
        done, left = [0], list(range(1, len(self.xy)))
        while left:
            field = self.field(poses, done)
            found = [(s, *self._searched(s, size, field)) for s in left for size in sizes[s]]
            s, _, pose, row = max(found, key=lambda each: each[1])
            poses[s] = self._polished(s, pose, row, field)
            done.append(s)
            left.remove(s)
        return poses

    def _searched(self, s: int, size: float, field: ExpressionField) -> tuple[float, Pose, int]:
        """Gain per cell of the best pose on a grid, the pose, and the row of COUNTS it is by."""
        f, x = self.features[s][:_SEARCHED], size * self.xy[s][:_SEARCHED]
        length = self.settings.length
        step, middle = length / 2, field.xy.mean(axis=0)
        own = np.linalg.norm(x, axis=1).max()
        most = int((np.linalg.norm(field.xy - middle, axis=1).max() + length + own) / step)
        half = most + int(own / step) + 1
        line = np.arange(-half, half + 1)  # of the grid of places, in steps
        places = step * np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2) + middle
        near = cKDTree(field.xy).query(places, distance_upper_bound=length)[0] < np.inf
        gain = np.zeros((len(COUNTS), len(places), len(f)), dtype=np.float32)  # 0 far from all
        gain[:, near] = field.table(f, places[near])
        move = np.arange(-most, most + 1)
        moves = np.stack(np.meshgrid(move, move, indexing="ij"), -1).reshape(-1, 2)
        at, best = np.arange(len(f)), (-np.inf, Pose(size, np.eye(2), middle), 0)
        for turn in _turns():
            cell = (np.rint(x @ turn / step).astype(np.intp) + half) @ [len(line), 1]
            place = (moves @ [len(line), 1])[:, None] + cell  # (moves, cells)
            allowed = np.flatnonzero(near[place].mean(axis=1) >= _TOUCHING)
            total = gain[:, place[allowed], at].mean(axis=2)  # (counts, allowed)
            row, column = np.unravel_index(total.argmax(), total.shape)
            if total[row, column] > best[0]:
                shift = middle + step * moves[allowed[column]]
                best = float(total[row, column]), Pose(size, turn, shift), int(row)
        return best

    def _polished(self, s: int, pose: Pose, row: int, field: ExpressionField) -> Pose:
        """The pose of the highest gain near one, by the same features."""
        f, x = self.features[s][:_POLISHED], self.xy[s][:_POLISHED]

        def moved(by: Array) -> Pose:
            return Pose(pose.scale, pose.rotation @ _rotation(by[0]), pose.shift + by[1:])

        def lost(by: Array) -> float:
            return -float(field.gains(f, moved(by).apply(x))[row])

        step = self.settings.length / 4
        corners = np.vstack([np.zeros(3), np.diag([2 * np.pi / _ANGLES, step, step])])
        options = {"initial_simplex": corners, "xatol": 1e-3, "fatol": 1e-3}
        return moved(minimize(lost, np.zeros(3), method="Nelder-Mead", options=options).x)

    def centred(self, poses: Sequence[Pose]) -> list[Pose]:
        """The same relations, all cells together at mean 0 and RMS radius 1."""
        cells = np.concatenate([p.apply(x) for p, x in zip(poses, self.xy, strict=True)])
        middle = cells.mean(axis=0)
        radius = float(np.sqrt(((cells - middle) ** 2).sum(axis=1).mean()))
        return [Pose(p.scale / radius, p.rotation, (p.shift - middle) / radius) for p in poses]


def _rotation(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s], [-s, c]])


def _turns() -> list[Array]:
    """Rotations by 24 angles, each with and without a reflection before it."""
    turns = [_rotation(2 * np.pi * i / _ANGLES) for i in range(_ANGLES)]
    return turns + [np.diag([1.0, -1.0]) @ turn for turn in turns]
