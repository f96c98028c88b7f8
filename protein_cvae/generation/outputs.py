"""What the tasks write: conformers with their spread, and where they came from.

Conformers are superposed on their mean by the ordered core, so that the B-factor column, the RMSF

    RMSF(i) = sqrt(mean_k |x_ki − x̄_i|²)   of CA, Å,

is that of the coordinates as they are written.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.align import align
from common.files.atomic import atomic_path
from common.files.outputs import check_name
from common.prediction import provenance
from common.report.tables import to_json
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.ensemble import Ensemble, ReadReport
from protein_cvae.generation.side_chains import LEFT_OUT, heavy_atoms
from protein_cvae.geometry.clashes import clashes_per_1000
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.frames import carbonyl_oxygen
from protein_cvae.geometry.side_chains import terminal_oxygen
from protein_cvae.geometry.superposition import MIN_SUPERPOSED, mean_rmsd, superpose_on_mean
from protein_cvae.geometry.validity import Validity, validity
from protein_cvae.io.formats.rows import further_atoms
from protein_cvae.io.formats.table import structure_format
from protein_cvae.io.write import write_ensemble

_SPREAD_MODELS = 100  # the pairs of more would take minutes and tell nothing new
_VALIDITY_NUMBERS = 20_000_000  # of CA distances at once


def superposing(core: Tensor, mask: Tensor) -> Tensor:
    """(L,) bool: the core, or all residues where fewer than four are core."""
    core = core & mask
    return core if int(core.sum()) >= MIN_SUPERPOSED else mask


def bundle(
    base: Ensemble, coordinates: Tensor, core: Tensor, onto: Tensor | None, name: str, source: str
) -> Ensemble:
    """Conformers as an ensemble, superposed on their mean by the core.

    Args:
        base: whose residues they have.
        coordinates: (K, L, 3, 3), Å.
        core: (L,) bool.
        onto: (L, 3, 3), Å: the structure whose pose the bundle takes; None for any pose.
        name: of the result.
        source: of the result.
    """
    x = coordinates.detach().to("cpu", torch.float32)
    weights = superposing(core, torch.ones_like(core))
    _, mean = superpose_on_mean(x[:, :, CA].double(), weights)
    if onto is not None:
        target = onto[:, CA].double()
        mean = align(mean, target, weights).apply(mean)
    fit = align(x[:, :, CA].double(), mean.expand(len(x), -1, -1), weights.expand(len(x), -1))
    x = fit.apply(x.double().flatten(1, 2)).view(x.shape).float()
    return replace(
        base,
        name=name,
        coordinates=x,
        mask=torch.ones(x.shape[:2], dtype=torch.bool),
        model_numbers=tuple(range(1, len(x) + 1)),
        source=source,
        report=ReadReport(),
        side_chains=None,
    )


def written_rmsf(ensemble: Ensemble) -> Tensor:
    """(L,) Å, RMSF of CA in the pose that each model has."""
    ca = ensemble.coordinates[:, :, CA].double()
    return (ca - ca.mean(0)).square().sum(-1).mean(0).sqrt().float()


def write_bundle(path: Path, ensemble: Ensemble) -> Path:
    """Write models with oxygens and side chains, and :func:`written_rmsf` as B-factors.

    With side chains the last residue of a chain has OXT.
    """
    e = ensemble
    oxygen = carbonyl_oxygen(e.coordinates, e.bonded.expand(e.mask.shape), e.mask)
    terminal = None if e.side_chains is None else terminal_oxygen(e.coordinates, oxygen)
    return write_ensemble(path, e, b_factor=written_rmsf(e), oxygen=oxygen, terminal=terminal)


def describe_atoms(ensemble: Ensemble) -> dict[str, Any]:
    """Which atoms are written, how many of them clash, and where the side chains come from."""
    if ensemble.side_chains is None:
        return {"written": "backbone", "notes": ensemble.report.to_list()}
    atoms, mask = heavy_atoms(ensemble)
    return {
        "written": "heavy",
        "clashes_per_1000": clashes_per_1000(atoms, mask, ensemble.sequence, ensemble.chain_index),
        "notes": ensemble.report.to_list(),
    }


def check_validity(ensemble: Ensemble) -> Validity:
    """:func:`~protein_cvae.geometry.validity.validity` in blocks that bound the memory."""
    rows = max(1, _VALIDITY_NUMBERS // ensemble.length**2)
    parts = [
        validity(
            x,
            mask,
            ensemble.bonded,
            ensemble.aatype,
            chain=ensemble.chain_index,
            number=ensemble.residue_numbers,
        )
        for x, mask in zip(ensemble.coordinates.split(rows), ensemble.mask.split(rows), strict=True)
    ]
    names = [field.name for field in dataclasses.fields(Validity)]
    return Validity(**{name: torch.cat([getattr(p, name) for p in parts]) for name in names})


def describe(ensemble: Ensemble, core: Tensor) -> dict[str, Any]:
    """Number of models, mean pairwise CA-RMSD (core, all; Å) and validity of an ensemble."""
    count = ensemble.num_models
    chosen = sorted({round(i) for i in torch.linspace(0, count - 1, _SPREAD_MODELS).tolist()})
    ca = ensemble.coordinates[chosen][:, :, CA]
    everywhere = ensemble.mask.all(0)
    pairs: dict[str, float | None] = {"core": None, "all": None}
    for where, mask in (("core", superposing(core, everywhere)), ("all", everywhere)):
        if count > 1 and int(mask.sum()) >= MIN_SUPERPOSED:
            pairs[where] = mean_rmsd(ca, mask)
    return {
        "models": count,
        "mean_pairwise_ca_rmsd": pairs,
        "validity": check_validity(ensemble).summary(),
    }


def checkpoint_provenance(
    checkpoint: Path | None, embedder: SequenceEmbedder | None
) -> dict[str, Any]:
    """Versions, the checkpoint by name and content, and the sequence embedder."""
    found = None
    if checkpoint is not None and checkpoint.is_file():
        with checkpoint.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found = {"file": checkpoint.name, "sha256": digest}
    identity = None if embedder is None else embedder.identity
    return provenance(checkpoint=found, embedder=identity)


def check_output(path: Path, overwrite: bool, inputs: tuple[Path, ...]) -> None:
    """Refuse an output that exists, or that is one of the inputs.

    Raises:
        FileExistsError: if it, or the JSON file beside it, exists and ``overwrite`` is off.
        ValueError: if it is a folder or an input.
    """
    for place in (path, json_path(path)):
        # Without leave to overwrite, an input is refused as a file that exists.
        check_name(place, "output", overwrite=overwrite)
        check_name(place, "output", inputs=inputs)


def check_fits(path: Path, base: Ensemble, count: int) -> None:
    """Refuse residues, chains and numbers of models that the format of ``path`` cannot hold.

    Raises:
        ValueError: naming what does not fit.
    """
    check = structure_format(path).check
    if check is not None:
        first = base.select_models([0])
        blank = replace(
            first,
            coordinates=torch.zeros_like(first.coordinates),
            model_numbers=(count,),
            side_chains=None,
        )
        check(blank, torch.zeros(1, base.length), further_atoms(blank, None, None), path)


def json_path(path: Path) -> Path:
    """Where the provenance of ``path`` goes: its name and ".json"."""
    return path.with_name(path.name + ".json")


@dataclass(frozen=True, eq=False)
class EnsembleResult:
    """Conformers to write, with what goes into the JSON file beside them."""

    ensemble: Ensemble
    path: Path
    summary: Mapping[str, Any]

    def write(self) -> list[Path]:
        """Write both files, complete or not at all; returns their paths."""
        beside = json_path(self.path)
        with atomic_path(beside) as temporary:
            temporary.write_text(to_json(self.summary, indent=2), encoding="utf-8")
            write_bundle(self.path, self.ensemble)
        return [self.path, beside]

    def message(self) -> str:
        """One line on what was made."""
        made, given = self.summary["generated"], self.summary.get("given")
        text = f"{made['models']} conformers, {_lengths(made)}"
        inside = made["validity"]["inside"]
        text += f", {100 * inside:.2f} % of residues inside geometric tolerance"
        for note in self.ensemble.report.of_kind(LEFT_OUT):
            text += f"; {note}"
        if made["validity"]["torn"] > 0:
            text += f", {100 * made['validity']['torn']:.0f} % of conformers with a torn chain"
        return text + (f"; input: {_lengths(given)}" if given else "")


def _lengths(described: Mapping[str, Any]) -> str:
    pairs = described["mean_pairwise_ca_rmsd"]
    if pairs["all"] is None:
        return "one model"
    core = "-" if pairs["core"] is None else f"{pairs['core']:.2f}"
    return f"mean pairwise CA-RMSD {core} Å core, {pairs['all']:.2f} Å all"
