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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import UserError
from spatial_ipa.data.expression import Expression
from spatial_ipa.data.slide import Slide
from spatial_ipa.encoder.eigenmaps import linear_scores, make_kernel, make_ridge
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
        expression: of each slide in the order of training; one at a time is looked at.
        landmarks: two (m, r) float64 linear scores of the landmark cells.
        used: (n,) rows of all cells, in that order, that were fitted to.
        ridge: the regression on those.
    """

    encoder: FrozenEncoder
    order: list[int]
    expression: list[Expression]
    landmarks: list[Array]
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
        number, row = trunk.slide.cpu().numpy(), trunk.row.cpu().numpy()
        fitted = (x.subset(row[number == i]) for i, x in enumerate(expression))
        scores = linear_scores(fitted, trunk.maps.cpu().numpy())
        among = trunk.landmark_rows.cpu().numpy()
        ridge = make_ridge(scores, trunk.widths.double().tolist(), among, float(trunk.penalty))
        starts = np.cumsum([0, *(len(x) for x in expression)])
        return OutOfFold(
            encoder, order, expression, [z[among] for z in scores], starts[number] + row, ridge
        )

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
        for i, x in zip(self.order, self.expression, strict=True):
            sizes[i] = len(x)
        if folds is None:
            folds = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
        if [len(f) for f in folds] != sizes:
            raise UserError(
                f"folds must give a number for every cell of {sizes}, got {[len(f) for f in folds]}"
            )
        found: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(sizes)
        predicted = self._predict(np.concatenate([np.asarray(folds[i]) for i in self.order]))
        for i, x, raw in zip(self.order, self.expression, predicted, strict=True):
            found[i] = self.encoder.finish(torch.from_numpy(raw).float(), x.filled)
        return found

    def _predict(self, folds: NDArray[np.integer]) -> Iterator[Array]:
        """(n_s, d_out) float64 of each slide, in order; cells without counts come out 0.

        Args:
            folds: (N,) of all cells, in order.
        """
        trunk, ridge = self.encoder.encoder, self.ridge
        assert isinstance(trunk, KernelTrunk), "checked in of"
        maps, widths = trunk.maps.cpu().numpy(), trunk.widths.double().tolist()
        targets = trunk.targets.cpu().double().numpy()
        plan = _Plan.of(folds, np.concatenate([x.filled for x in self.expression]), self.used)
        ends = np.cumsum([len(x) for x in self.expression])
        by_slide = [
            plan.within(end - len(x), end) for x, end in zip(self.expression, ends, strict=True)
        ]
        alone, whole = ridge.leave_one_out(targets), ridge.coefficients(targets)
        without = ridge.without(targets, [fitted for part in by_slide for _, fitted in part.folds])
        for x, end, part in zip(self.expression, ends, by_slide, strict=True):
            found = np.zeros((len(x), trunk.d_out))
            here = (self.used >= end - len(x)) & (self.used < end)
            found[self.used[here] - (end - len(x))] = alone[here]
            if part.folds or part.unseen.size:
                scores = linear_scores([x], maps)
                for cells, _ in part.folds:
                    kernel = make_kernel([z[cells] for z in scores], self.landmarks, widths)
                    found[cells] = kernel @ next(without)
                for cells in np.array_split(part.unseen, -(-len(x) // _BLOCK)):
                    kernel = make_kernel([z[cells] for z in scores], self.landmarks, widths)
                    found[cells] = kernel @ whole
            yield found * float(trunk.out_scale)


@dataclass(frozen=True, eq=False)
class _Part:
    """What is to be predicted of one slide: cells by their rows there.

    Attributes:
        folds: the cells of each fold of several, and the fitted rows that they are left out with.
        unseen: cells of folds of which none was fitted to.
    """

    folds: list[tuple[NDArray[np.intp], NDArray[np.intp]]]
    unseen: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class _Plan:
    """How every cell is predicted, unless it alone is left out.

    Attributes:
        unseen: all cells, ascending, of folds of which none was fitted to.
        folds: the cells, ascending, of each other fold of several.
        fitted: numbers of the fitted rows of each of those.
    """

    unseen: NDArray[np.intp]
    folds: list[NDArray[np.intp]]
    fitted: list[NDArray[np.intp]]

    @staticmethod
    def of(folds: NDArray[np.integer], filled: NDArray[np.bool_], used: NDArray[np.intp]) -> _Plan:
        """From the fold of all cells (N,), those with counts (N,), and those fitted to (n,)."""
        group = np.unique(folds, return_inverse=True)[1]
        count = int(group.max()) + 1
        seen = np.bincount(group[used], minlength=count) > 0
        several = seen & (np.bincount(group[filled], minlength=count) > 1)
        position = np.full(len(folds), -1)
        position[used] = np.arange(len(used))
        cells = np.flatnonzero(filled & several[group])
        cells = cells[np.argsort(group[cells], kind="stable")]
        cuts = np.flatnonzero(np.diff(group[cells])) + 1
        parts = np.split(cells, cuts) if len(cells) else []
        fitted = [position[part][position[part] >= 0] for part in parts]
        return _Plan(np.flatnonzero(filled & ~seen[group]), parts, fitted)

    def within(self, first: int, last: int) -> _Part:
        """The part of the slide whose cells are ``first`` to ``last`` of all."""

        def cut(cells: NDArray[np.intp]) -> NDArray[np.intp]:
            return cells[np.searchsorted(cells, first) : np.searchsorted(cells, last)] - first

        folds = [(cut(cells), fitted) for cells, fitted in zip(self.folds, self.fitted, strict=True)
                 if cells[0] < last and cells[-1] >= first]  # fmt: skip
        return _Part([(cells, fitted) for cells, fitted in folds if cells.size], cut(self.unseen))


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
