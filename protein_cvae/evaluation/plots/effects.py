"""Figure of latent effects: where in a protein a latent acts, and how far."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from common.errors import UserError
from protein_cvae.evaluation.latent_effects import GLOBAL, LOCAL, LatentEffects, Unit


def effects_figure(name: str, effects: LatentEffects, unit: Unit = "prior") -> Figure:
    """Displacement per residue above, change of the CA distances below, a column per latent.

    Above, for z_global: root mean square over dimensions and signs, a line per size.  For a local
    latent: a curve per moved residue at the largest size, which is marked where it was moved.
    Below: the single move of that latent, by the largest positive size, that moves most.

    Args:
        name: of the protein.
        effects: of its latents.
        unit: of the moves that are drawn.

    Raises:
        ValueError: if no move is in this unit.
    """
    present = {move.latent for move in effects.moves if move.unit == unit}
    if not present:
        raise UserError(f"unit: no latent was moved in standard deviations of the {unit}")
    latents = [latent for latent in (GLOBAL, *LOCAL) if latent in present]
    figure = Figure(figsize=(3.4 * len(latents), 6.2), layout="constrained")
    rows = figure.subplots(2, len(latents), squeeze=False)
    square = effects.displacement().square().numpy()
    largest = max(move.size for move in effects.moves)
    for (above, below), latent in zip(rows.T, latents, strict=True):
        _profiles(above, effects, square, latent, unit, largest)
        above.set_title(latent if latent == GLOBAL else f"{latent} of one residue")
        above.set_xlabel("residue")
        above.set_ylim(bottom=0)
        chosen = [m for m in effects.chosen(latent, unit) if effects.moves[m].size == largest]
        drawn = _map(below, effects, max(chosen, key=lambda m: float(square[m].sum())))
        figure.colorbar(drawn, ax=below, shrink=0.8, label="change of CA distance, Å")
    rows[0, 0].set_ylabel("displacement of N, CA, C, Å")
    figure.suptitle(f"{name}: latents moved by up to {largest:g} sd of the {unit}")
    return figure


def _profiles(
    axis: Axes, effects: LatentEffects, square: np.ndarray, latent: str, unit: Unit, largest: float
) -> None:
    """Root mean square of (M, L) squared displacements over the moves of a curve."""
    residue = np.arange(1, square.shape[1] + 1)
    if latent in LOCAL:
        chosen = effects.chosen(latent, unit, largest)
        places = dict.fromkeys(effects.moves[m].residue for m in chosen)
        for place in places:
            assert place is not None, "a local latent belongs to a residue"
            mine = [m for m in chosen if effects.moves[m].residue == place]
            (line,) = axis.plot(residue, np.sqrt(square[mine].mean(0)), linewidth=1)
            axis.axvline(place + 1, color=line.get_color(), linewidth=0.5, linestyle=":")
        return
    for size in sorted({abs(effects.moves[m].size) for m in effects.chosen(latent, unit)}):
        mine = effects.chosen(latent, unit, size)
        axis.plot(residue, np.sqrt(square[mine].mean(0)), label=f"±{size:g} sd", linewidth=1)
    axis.legend(fontsize="small")


def _map(axis: Axes, effects: LatentEffects, move: int) -> AxesImage:
    """Distance-difference map of one move."""
    change = effects.distance_change(move).numpy()
    limit = max(1e-6, float(np.abs(change).max()))
    end = len(change) + 0.5
    drawn = axis.imshow(change, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=(0.5, end, end, 0.5))
    what = effects.moves[move]
    place = "" if what.residue is None else f" of residue {what.residue + 1}"
    axis.set_title(f"dimension {what.dimension + 1}{place}, +{what.size:g} sd", fontsize="small")
    axis.set_xlabel("residue")
    return drawn
