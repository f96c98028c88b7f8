"""What the models of one ensemble share: its ordered core, its central model, its items.

The core is that of :func:`protein_cvae.geometry.superposition.core_mask`, over the given models
only.  The central model is the one nearest to the mean after generalised Procrustes superposition
(Gower 1975).  In that common frame, sum_j |x_i - x_j|^2 = M |x_i - mean|^2 + constant, so it is
also the medoid under squared distance.  Of more than 2,000 given models, 2,000 evenly spaced ones
decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.ensemble import Ensemble
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.superposition import MIN_SUPERPOSED, core_mask, superpose_on_mean

# Models, evenly spaced, that decide core and central model where there are more.
_MOST = 2000


@dataclass(frozen=True, eq=False)
class PreparedEnsemble:
    """An ensemble with everything its items need.

    Attributes:
        index: of the ensemble in the data.
        ensemble: all models.
        given: positions of the models that are learned from or generated from; may be empty.
        judged: positions of the models to be judged on; may be empty, not together with ``given``.
        core: (L,) bool, ordered core over the given models (the judged ones if none is given).
        central: position of the central one of the same models.
        residue_index: (L,) int64, see :func:`residue_positions`.
        embedding: (L, D) float32 of the sequence; D = 0 without an embedder.
    """

    index: int
    ensemble: Ensemble
    given: tuple[int, ...]
    judged: tuple[int, ...]
    core: Tensor
    central: int
    residue_index: Tensor
    embedding: Tensor

    @staticmethod
    def build(
        index: int,
        ensemble: Ensemble,
        given: Sequence[int],
        judged: Sequence[int] = (),
        embedding: Tensor | None = None,
    ) -> PreparedEnsemble:
        """Compute what is derived.

        Args:
            index: of the ensemble in the data.
            ensemble: all models.
            given: positions of the models that decide what is core and which model is central.
            judged: positions of the models to be judged on; they decide it where none is given.
            embedding: (L, D) float32, or None for D = 0.

        Raises:
            ValueError: if ``embedding`` does not have a row for each residue.
        """
        if embedding is None:
            embedding = torch.zeros(ensemble.length, 0)
        if embedding.dim() != 2 or embedding.shape[0] != ensemble.length:
            raise UserError(
                f"embedding of {ensemble.name}: expected ({ensemble.length}, D), got "
                f"{tuple(embedding.shape)}"
            )
        # Held-out models must not decide what is core or which model is the template.
        known = list(given or judged)
        everywhere = ensemble.mask[known].all(0)
        if len(known) > _MOST:
            known = [known[i * len(known) // _MOST] for i in range(_MOST)]
        models = ensemble.select_models(known)
        core = core_mask(models.coordinates.double(), models.bonded, models.mask) & everywhere
        central = known[central_model(models.coordinates, models.mask, core)]
        positions = residue_positions(ensemble)
        return PreparedEnsemble(
            index,
            ensemble,
            tuple(given),
            tuple(judged),
            core,
            central,
            positions,
            embedding.float(),
        )

    @property
    def unseen(self) -> bool:
        """Nothing of it is given."""
        return not self.given

    def item(
        self,
        model: int,
        template: int | None,
        with_sequence: bool = True,
        weight: float = 1.0,
    ) -> ProteinBatch:
        """One conformer to encode, as a batch of 1.

        Args:
            model: position of the conformer.
            template: position of its template; None withholds it.
            with_sequence: False withholds the sequence modality.
            weight: of this item.
        """
        e = self.ensemble
        given = model if template is None else template
        shown = e.mask[given] & (template is not None)
        return ProteinBatch(
            coordinates=e.coordinates[model][None].float(),
            mask=e.mask[model][None],
            template=torch.where(shown[:, None, None], e.coordinates[given], 0.0)[None].float(),
            template_mask=shown[None],
            aatype=e.aatype[None],
            embedding=self.embedding[None],
            sequence_mask=torch.tensor([with_sequence]),
            chain_index=e.chain_index[None],
            residue_index=self.residue_index[None],
            bonded=e.bonded[None],
            core=self.core[None],
            weight=torch.tensor([weight], dtype=torch.float32),
            protein=torch.tensor([self.index]),
            model=torch.tensor([model]),
            names=(e.name,),
        )


def central_model(coordinates: Tensor, mask: Tensor, core: Tensor) -> int:
    """Position of the central model; see the module's docstring.

    Superposed are the CA of the core, or of all residues where the core is small, that every model
    has; if those are fewer than 4, the model with most residues is taken.

    Args:
        coordinates: (M, L, 3, 3), Å.
        mask: (M, L) bool.
        core: (L,) bool.
    """
    common = mask.all(0)
    if int((common & core).sum()) >= MIN_SUPERPOSED:
        common = common & core
    if int(common.sum()) < MIN_SUPERPOSED:
        return int(mask.sum(1).argmax())
    points, mean = superpose_on_mean(coordinates[:, common, CA].double())
    return int((points - mean).square().sum((1, 2)).argmin())


def residue_positions(ensemble: Ensemble) -> Tensor:
    """(L,) int64 position of each residue in its chain, counting missing residues.

    Bonded residues are neighbours whatever their numbers.  Over a break the numbers say how many
    residues are missing, where they increase; otherwise the break counts as one step.
    """
    numbers, chain = ensemble.residue_numbers, ensemble.chain_index
    step = (numbers[1:] - numbers[:-1]).clamp_min(1)
    step = torch.where(ensemble.bonded[:-1], torch.ones_like(step), step)
    step = torch.where(chain[1:] == chain[:-1], step, torch.zeros_like(step))
    position = torch.cat([step.new_zeros(1), step.cumsum(0)])
    for index in range(len(ensemble.chain_ids)):
        members = chain == index
        if bool(members.any()):
            position[members] -= position[members][0].clone()
    return position


def joined_embedding(chains: Sequence[Tensor], ensemble: Ensemble) -> Tensor:
    """(L, D): rows of each chain's embedding at the residues of that chain.

    Args:
        chains: (L_c, D) float32 for each chain, in the order of ``chain_ids``.
        ensemble: it belongs to.
    """
    joined = torch.zeros(ensemble.length, chains[0].shape[1])
    for index, rows in enumerate(chains):
        joined[ensemble.chain_index == index] = rows
    return joined
