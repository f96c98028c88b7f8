"""Sources to ensembles: files, conformers in a file each, trajectories, simulations.

Every file is tried before any refusal is told, so that one message names all that cannot be used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from common.errors import UserError
from common.files.lists import one_or_several
from protein_cvae.data.settings import GO_ON, SimulationSettings, Sources
from protein_cvae.data.simulate import simulate_ensembles
from protein_cvae.ensemble import Ensemble, Note, ReadReport
from protein_cvae.io.find import ensemble_names, find_ensembles, is_trajectory, load_ensemble
from protein_cvae.io.read import structure_name

# Distinguishes a simulation from an experimental ensemble of the same protein.
_TRAJECTORY_PREFIX = "md_"


def source_ensembles(sources: Sources, simulate: SimulationSettings | None) -> Iterator[Ensemble]:
    """All ensembles of the sources, of the chosen chains; simulated ones without any path.

    Raises:
        FileNotFoundError: if a path does not exist or matches nothing.
        ValueError: if files are refused and ``skip_bad`` is off, naming all of them, or there is
            neither a path nor a simulation.
    """
    items = _items(sources)
    if not items:
        if simulate is None:
            raise UserError(
                "no data: give files, folders or patterns in data.init_args.sources.structures, "
                "trajectories or conformers, or set data.init_args.simulate"
            )
        yield from simulate_ensembles(
            simulate.num_proteins,
            simulate.num_models,
            simulate.min_length,
            simulate.max_length,
            simulate.seed,
        )
    bad: list[str] = []
    read: list[Ensemble] = []
    for entry, name in items.items():
        try:
            read.append(_read_one(entry, name, sources))
        except UserError as error:
            bad.append(str(error))
    if bad and (not sources.skip_bad or not read):
        more = "" if len(bad) == 1 else f"{len(bad)} of {len(items)} files cannot be used: "
        raise UserError(
            more + "; ".join(bad) + ("" if len(items) == 1 or sources.skip_bad else GO_ON)
        )
    if bad:
        rank_zero_warn(f"skip_bad: {len(bad)} of {len(items)} files are left out: {'; '.join(bad)}")
    for ensemble in read:
        rank_zero_info(f"read {ensemble.summary()}")
    yield from read


def _items(sources: Sources) -> dict[str, str]:
    """What is read, with the names of the ensembles; those of conformers as they are given."""
    unread: list[str] = []
    groups = [group for group in (sources.structures, sources.trajectories) if group]
    paths = list(dict.fromkeys(path for group in groups for path in find_ensembles(group, unread)))
    for line in unread:
        rank_zero_warn(line)
    own = [_own_name(path) for path in paths]
    often = Counter(own)
    longer = iter(ensemble_names([p for p, n in zip(paths, own, strict=True) if often[n] > 1]))
    named = {
        str(path): next(longer) if often[name] > 1 else name
        for path, name in zip(paths, own, strict=True)
    }
    for entry in one_or_several(sources.conformers):
        path = Path(entry)
        named[entry] = (path if path.is_dir() else path.resolve().parent).resolve().name
    return named


def _own_name(path: Path) -> str:
    if path.is_dir():
        return _TRAJECTORY_PREFIX + path.resolve().name
    return (_TRAJECTORY_PREFIX if is_trajectory(path) else "") + structure_name(path)


def _read_one(entry: str, name: str, sources: Sources) -> Ensemble:
    topology = sources.topology if is_trajectory(Path(entry)) else None
    drop = sources.incomplete == "drop"
    ensemble = load_ensemble(
        entry,
        topology=topology,
        name=name,
        max_frames=sources.max_frames,
        drop=drop,
        cache=sources.cache,
    )
    if sources.chains == "longest":
        ensemble = ensemble.select_chain("longest")
    # A residue that no model has tells nothing.
    present = ensemble.mask.any(0)
    if not bool(present.all()):
        ensemble = ensemble.select_residues(present)
    return noted(ensemble) if drop else ensemble


def noted(ensemble: Ensemble) -> Ensemble:
    """With a note on each residue that some model lacks, which evaluation leaves out."""
    lacking = (~ensemble.mask.all(0)).nonzero()[:, 0].tolist()
    detail = "some model lacks it, or N, CA or C of it"
    notes = tuple(Note("left out of evaluation", None, ensemble.label(i), detail) for i in lacking)
    return replace(ensemble, report=ReadReport(ensemble.report.notes + notes))
