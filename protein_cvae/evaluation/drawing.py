"""What is drawn of one protein, and the moves of its latents that are drawn."""

from __future__ import annotations

from matplotlib.figure import Figure
from torch import Tensor

from common.rng import generator_for
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.latent_effects import EffectOptions, LatentEffects, latent_effects
from protein_cvae.evaluation.plots.ensembles import distance_figure, ramachandran_figure
from protein_cvae.evaluation.plots.traces import Residues, rmsf_figure, traces_figure
from protein_cvae.evaluation.score_protein import MODES, case_key
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.evaluation.tables import METHODS
from protein_cvae.geometry.constants import CA
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.sampling import evaluating, posterior_means


def case_figures(case: EvaluationCase, conformers: dict[str, Tensor]) -> dict[str, Figure]:
    """The four figures of one protein; ``conformers`` (K, L, 3, 3) by method."""
    ensemble, core = case.prepared.ensemble, case.core
    titled = {METHODS.get(method, method): x for method, x in conformers.items()}
    ca = {title: x[:, :, CA] for title, x in titled.items()}
    residues = Residues.of(ensemble.residue_numbers, ensemble.bonded, core)
    return {
        "traces": traces_figure(case.name, ca, residues),
        "rmsf": rmsf_figure(case.name, ca, residues),
        "ramachandran": ramachandran_figure(case.name, titled, ensemble.bonded, ensemble.aatype),
        "distances": distance_figure(case.name, ca),
    }


def case_effects(
    network: ProteinCVAE, case: EvaluationCase, settings: EvaluationSettings
) -> LatentEffects:
    """What each latent of the central given model moves; the draws are those of this protein."""
    central = case.prepared.central
    options = EffectOptions(chunk=settings.chunk)
    with evaluating(network):
        means = posterior_means(network, case.prepared, case.given, central)
    # Modes of generation have the numbers before it.
    generator = generator_for(settings.seed, case_key(case.name), len(MODES))
    return latent_effects(network, case.item().to(network.device), means, generator, options)
