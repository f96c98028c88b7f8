"""Nearest neighbours."""

from __future__ import annotations

import numpy as np

from spatial_ipa.geometry.neighbours import nearest


def test_a_point_is_not_its_own_neighbour() -> None:
    points = np.zeros((6, 2))
    points[4:] = 1.0
    _, index = nearest(points, points, 3, same=True)
    assert not (index == np.arange(6)[:, None]).any()
