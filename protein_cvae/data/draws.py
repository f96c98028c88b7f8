"""Training draws and held-out items, each a pure function of its index.

Draws are numbered t = 0, 1, ... over all epochs.  Draw t belongs to ensemble t mod P, so every
ensemble is drawn equally often however many models it has; with n = t div P it takes the next K of
a random order of its training models, a new order when all have been taken.  Thus every training
model is encoded at least once in each P ceil(M / K) draws.  Its template is the central training
model, in a share of the draws and unless it is that one itself, or another one at random.

Within an epoch the draws come in a random order in which those of one step of all processes are of
similar length, to limit padding.  Order and items depend on (seed, epoch, draw) only: with the same
number of draws per step over all processes, any number of processes draws the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from common.errors import UserError
from common.rng import numpy_generator_for
from protein_cvae.data.batch import ProteinBatch, collate
from protein_cvae.data.prepared import PreparedEnsemble
from protein_cvae.data.settings import DrawSettings

# Steps among which draws are sorted by length; more limit padding more and mix proteins less.
_POOL_STEPS = 8
# Keys of streams that must differ.
_ORDER, _MODELS, _ITEM = 0, 1, 2


class TrainingDraws(Dataset[ProteinBatch]):
    """Item ``epoch * length + i`` is the i-th draw of an epoch: K models of one ensemble.

    Args:
        ensembles: known proteins, each with at least ``models_per_protein`` training models.
        settings: K and the rest.
        world: processes; they share the draws of an epoch, rounded up to a multiple, and those of
            one step of all of them are of similar length.

    Raises:
        ValueError: if there is no ensemble, or one has too few training models.
    """

    def __init__(
        self,
        ensembles: Sequence[PreparedEnsemble],
        settings: DrawSettings = DrawSettings(),
        world: int = 1,
    ) -> None:
        models_per_protein = settings.models_per_protein
        if not ensembles:
            raise UserError("training needs at least one ensemble, got none")
        small = [
            f"{e.ensemble.name} ({len(e.given)})"
            for e in ensembles
            if len(e.given) < max(2, models_per_protein)
        ]
        if small:
            raise UserError(
                f"models_per_protein {models_per_protein} needs as many training models (and at "
                f"least 2) in each ensemble; too few in {', '.join(small)}: lower it, or leave "
                "these ensembles out by raising min_models"
            )
        self.ensembles, self.settings = list(ensembles), settings
        self.length = -(-settings.per_epoch // world) * world
        self.models_per_protein = models_per_protein
        self.per_step = settings.batch_of_process(world) * world
        self._order: tuple[int, np.ndarray] | None = None
        self._cycles: dict[int, tuple[int, np.ndarray]] = {}  # of each ensemble, the last one used

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> ProteinBatch:
        epoch, i = divmod(index, self.length)
        draw = int(self.order(epoch)[i])
        prepared = self.ensembles[draw % len(self.ensembles)]
        generator = numpy_generator_for(self.settings.seed, _ITEM, draw)
        items = []
        for place in self._places(draw):
            # All four are always drawn, so that a share changes nothing else.
            other = int(generator.integers(len(prepared.given) - 1))
            chosen = prepared.given[other + (other >= place)]
            central = generator.random() < self.settings.central_templates
            if central and prepared.central != prepared.given[place]:
                chosen = prepared.central
            hide_template = generator.random() < self.settings.template_dropout
            hide_sequence = generator.random() < self.settings.sequence_dropout
            template = None if hide_template else chosen
            items.append(prepared.item(prepared.given[place], template, not hide_sequence))
        return collate(items)

    def models(self, draw: int) -> list[int]:
        """Positions of the K distinct training models of draw t."""
        given = self.ensembles[draw % len(self.ensembles)].given
        return [given[place] for place in self._places(draw)]

    def _places(self, draw: int) -> list[int]:
        """Places among the given models of those of draw t."""
        which, use = draw % len(self.ensembles), draw // len(self.ensembles)
        total, k = len(self.ensembles[which].given), self.models_per_protein
        cycle, group = divmod(use, -(-total // k))
        if self._cycles.get(which, (-1,))[0] != cycle:
            generator = numpy_generator_for(self.settings.seed, _MODELS, which, cycle)
            self._cycles[which] = (cycle, generator.permutation(total))
        order = self._cycles[which][1]
        return [int(order[(group * k + j) % total]) for j in range(k)]

    def order(self, epoch: int) -> np.ndarray:
        """(length,) int64, the draws t of an epoch in the order in which they come."""
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._shuffle(epoch))
        return self._order[1]

    def _shuffle(self, epoch: int) -> np.ndarray:
        generator = numpy_generator_for(self.settings.seed, _ORDER, epoch)
        draws = epoch * self.length + generator.permutation(self.length)
        lengths = np.array([e.ensemble.length for e in self.ensembles])[draws % len(self.ensembles)]
        pool = _POOL_STEPS * self.per_step
        whole = self.length // self.per_step  # steps; what is left over comes last
        for start in range(0, self.length, pool):
            part = slice(start, start + pool)
            draws[part] = draws[part][np.argsort(lengths[part], kind="stable")]
        steps = draws[: whole * self.per_step].reshape(whole, self.per_step)
        mixed = steps[generator.permutation(whole)].ravel()
        return np.concatenate([mixed, draws[whole * self.per_step :]])


class HeldOutItems(Dataset[ProteinBatch]):
    """Models to judge on, shortest proteins first, with the central model as template.

    For a known protein these are its held-out models, and the template is its central training
    model.  For an unseen protein the template is the central model of all, which is not itself an
    item.  Weights make each protein count equally: their mean over all items is 1.

    Args:
        ensembles: to take items from; may be empty.
        per_protein: most models of each protein, evenly spaced over its held-out models; None for
            all.

    An index beyond the last item, with which samplers fill up ranks, gives an item again, with
    weight 0.
    """

    def __init__(
        self, ensembles: Sequence[PreparedEnsemble], per_protein: int | None = None
    ) -> None:
        self.items: list[tuple[PreparedEnsemble, int, float]] = []
        for prepared in sorted(ensembles, key=lambda e: e.ensemble.length):
            models = [i for i in prepared.judged if i != prepared.central]
            if per_protein is not None and len(models) > per_protein:
                models = [models[i * len(models) // per_protein] for i in range(per_protein)]
            self.items += [(prepared, model, 1 / len(models)) for model in models]
        self._scale = len(self.items) / max(1.0, sum(weight for _, _, weight in self.items))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> ProteinBatch:
        prepared, model, weight = self.items[index % len(self.items)]
        weight = weight * self._scale if index < len(self.items) else 0.0
        return prepared.item(model, prepared.central, weight=weight)
