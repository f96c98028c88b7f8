"""H of the training slides as if it were that of new ones.

A kernel trunk (:mod:`spatial_ipa.encoder.kernel_trunk`) knows the cells it was fitted to: in sample
H of a training slide finds far more neighbours than H of any new slide, and what is trained on it
trusts it too much.  Here the H of every cell comes from the regression without the targets of the
cells that share its fold, in closed form (:mod:`spatial_ipa.encoder.kernel_ridge`).  The linear
maps, the kernel widths and the directions of H stay those of all training cells.

A slide left out as a whole has nothing in the columns of its own eigenmaps.  So similarities within
it are those of a new slide, but its coordinates do not line up with those of other slides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import UserError
from spatial_ipa.data.expression import Expression
from spatial_ipa.data.slide import Slide
from spatial_ipa.encoder.eigenmaps import make_kernel, make_ridge
from spatial_ipa.encoder.frozen import FrozenEncoder
from spatial_ipa.encoder.kernel_ridge import Array, Ridge
from spatial_ipa.encoder.kernel_trunk import KernelTrunk

_BLOCK = 4096  # cells predicted at once


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """An encoder and all its training slides, with the regression solved once.

    Attributes:
        encoder: with a kernel trunk.
        order: where the slides of its training are among those given.
        filled: (n_s,) bool of each slide in the order of training, rows with counts.
        scores: two (N, r) float64 linear scores of all cells, in that order.
        used: (n,) rows of them that were fitted to.
        ridge: the regression on those.
    """

    encoder: FrozenEncoder
    order: list[int]
    filled: list[NDArray[np.bool_]]
    scores: list[Array]
    used: NDArray[np.intp]
    ridge: Ridge

    @staticmethod
    def of(encoder: FrozenEncoder, slides: Sequence[Slide]) -> OutOfFold:
        """Solve the regression of an encoder on its training slides again.

        Args:
            encoder: with a kernel trunk.
            slides: all of its training slides, in any order; only their expression is looked at.

        Raises:
            ValueError: if the encoder has no kernel trunk, or slides are not those of its training.
        """
        trunk = encoder.encoder
        if not isinstance(trunk, KernelTrunk):
            raise UserError("only an encoder of start.kind=eigenmaps can leave training cells out")
        order = _training_order(encoder, slides)
        expression = [
            Expression.of_slide(slides[i], encoder.panel, encoder.normalisation) for i in order
        ]
        starts = np.cumsum([0, *(len(x) for x in expression)])
        used = starts[trunk.slide.cpu().numpy()] + trunk.row.cpu().numpy()
        scores = [
            np.concatenate([x.project(w) for x in expression]) for w in trunk.maps.cpu().numpy()
        ]
        ridge = make_ridge(
            [z[used] for z in scores],
            trunk.widths.double().tolist(),
            trunk.landmark_rows.cpu().numpy(),
            float(trunk.penalty),
        )
        return OutOfFold(encoder, order, [x.filled for x in expression], scores, used, ridge)

    def embed(
        self, folds: Sequence[NDArray[np.integer]] | None = None
    ) -> list[NDArray[np.float32]]:
        """H of every slide, in the order they were given.

        Args:
            folds: (n_s,) fold of every cell of each slide as given; cells of one number are left
                out together, also those of different slides.  None leaves every cell out alone.

        Returns:
            (n_s, d_out) float32 with the mean taken out of each slide, and smoothed, as
            :meth:`FrozenEncoder.embed` does.

        Raises:
            ValueError: if folds do not fit the slides.
        """
        sizes = [0] * len(self.order)
        for i, filled in zip(self.order, self.filled, strict=True):
            sizes[i] = len(filled)
        if folds is None:
            folds = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
        if [len(f) for f in folds] != sizes:
            raise UserError(
                f"folds must give a number for every cell of {sizes}, got {[len(f) for f in folds]}"
            )
        raw = self._predict(np.concatenate([np.asarray(folds[i]) for i in self.order]))
        parts = np.split(raw, np.cumsum([len(f) for f in self.filled])[:-1])
        found: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(sizes)
        for i, filled, part in zip(self.order, self.filled, parts, strict=True):
            found[i] = self.encoder.finish(torch.from_numpy(part).float(), filled)
        return found

    def _predict(self, folds: NDArray[np.integer]) -> Array:
        """(N, d_out) float64 of all cells, in order; cells without counts come out 0."""
        trunk, scores, ridge = self.encoder.encoder, self.scores, self.ridge
        assert isinstance(trunk, KernelTrunk), "checked in of"
        filled, widths = np.concatenate(self.filled), trunk.widths.double().tolist()
        targets = trunk.targets.cpu().double().numpy()
        at = [z[self.used[trunk.landmark_rows.cpu().numpy()]] for z in scores]
        position = np.full(len(folds), -1)
        position[self.used] = np.arange(len(self.used))

        found = np.zeros((len(folds), trunk.d_out))
        found[self.used] = ridge.leave_one_out(targets)
        whole = ridge.coefficients(targets)
        order = np.argsort(folds, kind="stable")
        _, first = np.unique(folds[order], return_index=True)
        alone = []  # cells that were not fitted to, whose folds leave nothing out
        several, left = [], []  # cells of a fold, and which of them were fitted to
        for cells in np.split(order, first[1:]):
            cells = cells[filled[cells]]
            fitted = position[cells]
            fitted = fitted[fitted >= 0]
            if not fitted.size:
                alone.append(cells)
            elif len(cells) > 1:
                several.append(cells)
                left.append(fitted)
        for cells, without in zip(several, ridge.without(targets, left), strict=True):
            found[cells] = make_kernel([z[cells] for z in scores], at, widths) @ without
        for cells in np.array_split(
            np.concatenate([np.empty(0, np.intp), *alone]), -(-len(folds) // _BLOCK)
        ):
            found[cells] = make_kernel([z[cells] for z in scores], at, widths) @ whole
        return found * float(trunk.out_scale)


def _training_order(encoder: FrozenEncoder, slides: Sequence[Slide]) -> list[int]:
    """Where the slides of the encoder's training are among ``slides``."""
    given = [s.expression_hash for s in slides]
    wanted = [identity.expression_hash for identity in encoder.split.train]
    if sorted(given) != sorted(wanted):
        known = ", ".join(identity.name for identity in encoder.split.train)
        raise UserError(
            f"slides must be all those the encoder was trained on ({known}), got "
            f"{', '.join(s.name for s in slides) or 'none'}; give these, or train the encoder anew"
        )
    return [given.index(h) for h in wanted]
