"""Sources to ensembles: files, trajectory folders, simulations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from protein_cvae.data.settings import SimulationSettings, Sources
from protein_cvae.data.simulate import simulate_ensembles
from protein_cvae.ensemble import Ensemble
from protein_cvae.io.find import find_ensembles, load_ensemble
from protein_cvae.io.read import structure_name

# Distinguishes a simulation from an experimental ensemble of the same protein.
_TRAJECTORY_PREFIX = "md_"


def source_ensembles(sources: Sources, simulate: SimulationSettings | None) -> Iterator[Ensemble]:
    """All ensembles of the sources, of the chosen chains; simulated ones without any path.

    Raises:
        FileNotFoundError: if a path does not exist or matches nothing.
        ValueError: if a file is refused, or there is neither a path nor a simulation.
    """
    groups = [group for group in (sources.structures, sources.trajectories) if group]
    if not groups:
        made = simulate
        if made is None:
            raise UserError(
                "no data: give files, folders or patterns in data.init_args.sources.structures "
                "or trajectories, or set data.init_args.simulate"
            )
        yield from simulate_ensembles(
            made.num_proteins, made.num_models, made.min_length, made.max_length, made.seed
        )
    for path in dict.fromkeys(path for group in groups for path in find_ensembles(group)):
        yield _read_one(path, sources)


def _read_one(path: Path, sources: Sources) -> Ensemble:
    name = _TRAJECTORY_PREFIX + path.resolve().name if path.is_dir() else structure_name(path)
    ensemble = load_ensemble(path, name=name, max_frames=sources.max_frames)
    if sources.chains == "longest":
        ensemble = ensemble.select_chain("longest")
    # A residue that no model has tells nothing.
    present = ensemble.mask.any(0)
    return ensemble if bool(present.all()) else ensemble.select_residues(present)
