"""Colours that carry position: a map from the plane to colours that colour-blind readers see, too.

The corners of the tissue's bounding box have four colours; between them it is bilinear in OKLab
(Ottosson 2020, https://bottosson.github.io/posts/oklab), where equal steps look equal.  From left
to right the colours go from blue to yellow, upwards from dark to light: the two directions that
red-green blindness leaves as they are.
"""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_rgb
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

CORNERS = {
    (0, 0): "#3b1d8f",  # lower left, indigo
    (1, 0): "#d1420e",  # lower right, vermilion
    (0, 1): "#38bdf2",  # upper left, sky blue
    (1, 1): "#ffd92e",  # upper right, yellow
}
"""Colour of each corner (x, y) of the bounding box."""

MISSING = "0.82"
"""Colour of cells about which a panel says nothing."""

_OKABE_ITO = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000",
)  # fmt: skip

# OKLab: linear sRGB to cone responses, and their cube roots to lightness and two opponents.
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def position_colours(xy: ArrayLike) -> Array:
    """(n, 3) RGB in [0, 1] of positions (n, 2), so that a misplaced cell stands out.

    Rows that are not finite get grey.
    """
    points = np.asarray(xy, dtype=np.float64)
    known = np.isfinite(points).all(axis=1)
    colours = np.tile(np.array(to_rgb(MISSING)), (len(points), 1))
    if known.any():
        low, high = points[known].min(axis=0), points[known].max(axis=0)
        span = np.where(high > low, high - low, 1.0)
        colours[known] = plane_colours((points[known] - low) / span)
    return colours


def plane_colours(uv: Array) -> Array:
    """(n, 3) RGB of points (n, 2) of the unit square; :data:`CORNERS` at its corners."""
    u, v = uv[:, :1], uv[:, 1:]
    lab = sum(
        (u if right else 1 - u) * (v if upper else 1 - v) * _oklab(np.array(to_rgb(colour)))
        for (right, upper), colour in CORNERS.items()
    )
    cones = np.linalg.solve(_TO_LAB, np.asarray(lab).T) ** 3
    linear = np.linalg.solve(_TO_CONES, cones).T.clip(0, 1)
    rgb: Array = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb.clip(0, 1)


def _oklab(rgb: Array) -> Array:
    """(..., 3) OKLab of sRGB."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lab: Array = np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T
    return lab


def error_colours() -> Colormap:
    """From pale, known well, to dark, known badly; also the pale end is seen on white."""
    return LinearSegmentedColormap.from_list(
        "spatial_ipa_error", colormaps["magma_r"](np.linspace(0.12, 0.92, 256))
    )


def category_colours(count: int) -> list[tuple[float, ...]]:
    """Colours of ``count`` categories: eight told apart in every colour vision, else a spectrum.

    The eight are those of Okabe and Ito (2008, https://jfly.uni-koeln.de/color), black last.
    """
    if count <= len(_OKABE_ITO):
        return [to_rgb(colour) for colour in _OKABE_ITO[:count]]
    return [tuple(colour) for colour in colormaps["nipy_spectral"](np.linspace(0.05, 0.95, count))]
