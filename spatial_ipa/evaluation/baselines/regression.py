"""Simple baseline methods: coordinates of one slide from its features and some training slides.

Every one has the signature :data:`Baseline` and stands in :data:`BASELINES`.  Features are
principal components of the training slides' log-normalised expression (:func:`pca_features`).

* Regressors (``knn``, ``ridge``, ``svr``, ``mlp``) learn features -> coordinates.  Training
  coordinates are gauge-fixed (mean 0, RMS radius 1) in the frame they are given in, so slides in
  different poses contradict each other; :func:`registered` turns them into one frame first.
* ``novosparc``: optimal transport onto the training slides
  (:mod:`spatial_ipa.evaluation.baselines.transport`).
* Unsupervised layouts of the test slide alone: ``pca2``, ``isomap``, ``spectral``.
* ``random``: a standard normal layout, the chance level.

Settings were chosen in favour of the baselines, on slides they are reported on, and are then the
same for every slide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.manifold import Isomap, SpectralEmbedding
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.svm import SVR

from common.errors import UserError
from spatial_ipa.evaluation.baselines.transport import connected_knn_graph, transport_layout
from spatial_ipa.geometry.gauge import gauge_fix_array
from spatial_ipa.layout.registration import register_slides

__all__ = ["BASELINES", "Baseline", "pca_features", "predict", "register_slides", "registered"]

Array = NDArray[np.float64]
Arrays = Sequence[np.ndarray]

Baseline = Callable[[Arrays, Arrays, np.ndarray, int], Array]
"""(train_features [(n_s, d)], train_xy [(n_s, 2)], test_features (n, d), seed) -> (n, 2)."""


def pca_features(
    train: Arrays, test: np.ndarray, dim: int = 50, seed: int = 0, *, num_genes: int = 5000
) -> tuple[list[np.ndarray], np.ndarray]:
    """Principal components fitted on the training slides, every slide centred on its own mean.

    Args:
        train: (n_s, G) per training slide, log-normalised expression.
        test: (n, G) expression of the slide to predict; it decides nothing but its own mean.
        dim: number of components, at most the training rows and the genes used.
        seed: of the randomised SVD.
        num_genes: genes kept, those of largest variance within the training slides; all of them
            if the panel is smaller.

    Returns:
        (n_s, dim) float64 per training slide and (n, dim) float64, in order of variance, divided
        by one number so that the training features have mean square 1.

    Raises:
        ValueError: if there is no training slide, panels differ, or dim is out of range.
    """
    if not train:
        raise UserError("train is empty: components are fitted on at least one slide")
    widths = {x.shape[1] for x in (*train, test)}
    if len(widths) != 1:
        raise UserError(f"all slides must have the same genes, got {sorted(widths)} columns")
    rows, genes = sum(len(x) for x in train), min(num_genes, widths.pop())
    if not 1 <= dim <= min(rows, genes):
        raise UserError(f"dim must lie in [1, {min(rows, genes)}], got {dim}")
    spread = np.mean([x.var(axis=0, dtype=np.float64) for x in train], axis=0)
    if not spread.max() > 0:
        raise UserError("train has no variance: every spot of a slide has the same expression")
    keep = np.argsort(-spread, kind="stable")[:genes]
    centred = [x[:, keep] - x[:, keep].mean(axis=0, dtype=np.float64) for x in (*train, test)]
    pca = PCA(dim, svd_solver="randomized", random_state=seed).fit(np.concatenate(centred[:-1]))
    features = [x @ pca.components_.T for x in centred]
    unit = np.sqrt(np.mean(np.concatenate(features[:-1]) ** 2))
    features = [x / unit for x in features]
    return features[:-1], features[-1]


def predict(
    name: str,
    train_features: Arrays,
    train_xy: Arrays,
    test_features: np.ndarray,
    seed: int = 0,
    *,
    register: bool = False,
) -> Array:
    """Run one baseline of the table by name, after checking its input.

    Args:
        name: a key of :data:`BASELINES`.
        train_features: (n_s, d) per training slide.
        train_xy: (n_s, 2) per training slide, any unit.
        test_features: (n, d).
        seed: of the methods that draw.
        register: bring the training slides into one frame first; needed by the regressors where
            slides have arbitrary pose, without effect on the unsupervised methods.

    Returns:
        (n, 2) float64 layout, up to pose and scale.

    Raises:
        ValueError: for an unknown name or arrays that do not fit together.
    """
    if name not in BASELINES:
        raise UserError(f"name must be one of {', '.join(BASELINES)}, got {name!r}")
    if not train_xy or len(train_features) != len(train_xy):
        raise UserError(
            "train_features and train_xy must hold one array per training slide, got "
            f"{len(train_features)} and {len(train_xy)}"
        )
    for s, (features, xy) in enumerate(zip(train_features, train_xy, strict=True)):
        expected = (len(features), test_features.shape[1])
        if features.shape != expected or xy.shape != (len(features), 2):
            raise UserError(
                f"training slide {s}: features must be {expected} and xy ({len(features)}, 2), "
                f"got {features.shape} and {xy.shape}"
            )
    baseline = registered(BASELINES[name]) if register else BASELINES[name]
    return baseline(train_features, train_xy, test_features, seed)


def registered(baseline: Baseline) -> Baseline:
    """The baseline, given training slides that were registered to the first one."""

    def run(features: Arrays, xy: Arrays, test: np.ndarray, seed: int) -> Array:
        return baseline(features, register_slides(features, xy), test, seed)

    return run


def _pool(features: Arrays, xy: Arrays) -> tuple[np.ndarray, Array]:
    return np.concatenate(list(features)), np.concatenate([gauge_fix_array(x) for x in xy])


def _knn(features: Arrays, xy: Arrays, test: np.ndarray, seed: int) -> Array:
    x, y = _pool(features, xy)
    return np.asarray(
        KNeighborsRegressor(min(20, len(x)), weights="distance").fit(x, y).predict(test)
    )


def _ridge(features: Arrays, xy: Arrays, test: np.ndarray, seed: int) -> Array:
    x, y = _pool(features, xy)
    return np.asarray(RidgeCV(np.logspace(-2, 5, 15)).fit(x, y).predict(test))


def _svr(features: Arrays, xy: Arrays, test: np.ndarray, seed: int) -> Array:
    x, y = _pool(features, xy)
    return np.asarray(MultiOutputRegressor(SVR(C=1.0, epsilon=0.1)).fit(x, y).predict(test))


def _mlp(features: Arrays, xy: Arrays, test: np.ndarray, seed: int) -> Array:
    x, y = _pool(features, xy)
    net = MLPRegressor(
        hidden_layer_sizes=(128, 64),
        alpha=1.0,
        early_stopping=True,
        max_iter=500,
        random_state=seed,
    )
    return np.asarray(net.fit(x, y).predict(test), dtype=np.float64)


def _novosparc(features: Arrays, xy: Arrays, test: np.ndarray, seed: int) -> Array:
    return transport_layout(features, xy, test)


def _pca2(features: Arrays, xy: Arrays, test: np.ndarray, seed: int) -> Array:
    return np.array(test[:, :2], dtype=np.float64)


def _isomap(features: Arrays, xy: Arrays, test: np.ndarray, seed: int) -> Array:
    _, k = connected_knn_graph(test, min(15, len(test) - 1))
    return np.asarray(Isomap(n_neighbors=k, n_components=2).fit_transform(test))


def _spectral(features: Arrays, xy: Arrays, test: np.ndarray, seed: int) -> Array:
    graph, _ = connected_knn_graph(test, min(15, len(test) - 1))
    embedding = SpectralEmbedding(n_components=2, affinity="precomputed", random_state=seed)
    return np.asarray(embedding.fit_transform(graph))


def _random(features: Arrays, xy: Arrays, test: np.ndarray, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((len(test), 2))


BASELINES: dict[str, Baseline] = {
    "random": _random,
    "pca2": _pca2,
    "isomap": _isomap,
    "spectral": _spectral,
    "knn": _knn,
    "ridge": _ridge,
    "svr": _svr,
    "mlp": _mlp,
    "novosparc": _novosparc,
}
