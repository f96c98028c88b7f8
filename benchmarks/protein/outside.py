"""Ensembles that were made elsewhere, in the same table as ours, against the same judged models.

    python benchmarks/protein/outside.py --config configs/protein_cvae/fit.yaml --config data.yaml \
        --name BBFlow --ensembles FOLDER --out runs/protein_table
    python benchmarks/protein/table.py report --out runs/protein_table

FOLDER has one entry for each protein, called as the protein is in the table (``/`` as ``_``):

* ``PROTEIN.pdb`` or ``.cif``, also ``.gz``: a MODEL for each conformer, as AlphaFlow and BBFlow
  write;
* ``PROTEIN.xtc`` or another trajectory, with ``PROTEIN.pdb`` as its topology;
* ``PROTEIN/``: a topology and trajectories, as BioEmu writes, or a structure file per conformer.

Conformers need N, CA and C of every residue that is scored; residues are the same by number or by
alignment (:mod:`protein_cvae.io.matching`), further ones are left out.  What does not fit is
refused, all of it in one message, and nothing is written; ``--skip-bad`` goes on without.  Give the
sampler the central given model, or the sequence, as our prior has it: what it saw is not checked.

A sampler that leaves draws out is judged on the others alone: ``--asked`` says how many there were,
and the table gets the share that was accepted.  Rows go to ``<out>/results.jsonl`` beside those of
``table.py``, whose settings they take; those of the same name and protein are replaced.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from experiment import OUTSIDE, experiment, merged, read, read_cases
from torch import Tensor

from common.errors import MissingFile, UserError
from common.files.atomic import atomic_path
from common.files.outputs import prepare_folder
from common.report.machine import describe_machine
from common.report.tables import to_json_lines
from protein_cvae.data.cases import EvaluationCase, EvaluationCases
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.ensemble import Ensemble, labels, listed
from protein_cvae.evaluation.panel_table import ACCEPTED
from protein_cvae.evaluation.scores import score_conformers
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.evaluation.tables import Row, conformer_row
from protein_cvae.io.find import is_trajectory, load_ensemble
from protein_cvae.io.matching import match_residues
from protein_cvae.io.read import structure_name
from protein_cvae.io.topology import TOPOLOGY_SUFFIXES


def entries(folder: Path) -> dict[str, tuple[Path, Path | None]]:
    """What :func:`load_ensemble` reads and the topology of a trajectory file, by protein.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if a protein has several ensembles.
    """
    if not folder.is_dir():
        raise MissingFile(f"--ensembles: {folder} is no folder")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            name = path.name if path.is_dir() else structure_name(path)
            found.setdefault(name, []).append(path)
    chosen = {}
    for name, paths in found.items():
        frames = [path for path in paths if is_trajectory(path)]
        tops = [path for path in paths if path not in frames and _is_topology(path)]
        if len(frames) == 1 and len(tops) == len(paths) - 1:
            chosen[name] = (frames[0], tops[0] if tops else None)
        elif len(paths) == 1:
            chosen[name] = (paths[0], None)
        else:
            raise UserError(
                f"{folder}: {name} has several ensembles: {', '.join(p.name for p in paths)}; keep "
                "one, or a folder of that name"
            )
    return chosen


def _is_topology(path: Path) -> bool:
    return path.is_file() and path.name.lower().removesuffix(".gz").endswith(TOPOLOGY_SUFFIXES)


def conformers(case: EvaluationCase, theirs: Ensemble) -> Tensor:
    """(K, L, 3, 3) Å of the case's residues, in their order.

    Raises:
        ValueError: naming both and the residues, if they are no one protein, or a conformer lacks
            one that is scored; if there are fewer than two conformers.
    """
    ours = case.prepared.ensemble
    if theirs.num_models < 2:
        raise UserError(f"{theirs.source}: one conformer is no ensemble; give at least two")
    if len(ours.chain_ids) == 1:
        theirs = theirs.select_chain("longest")
    found = match_residues(ours, theirs, drop=True)
    kept = {found.first.label(i) for i in range(found.first.length)}
    lacking = [name for name in map(ours.label, range(ours.length)) if name not in kept]
    if lacking:
        raise UserError(
            f"{theirs.source} lacks residues of {case.name} that are scored: {listed(lacking)}; "
            "make the ensemble of the whole chain"
        )
    whole = found.second.mask.all(0)
    if not bool(whole.all()):
        raise UserError(
            f"{theirs.source}: not all conformers have N, CA and C of "
            f"{labels(found.second, ~whole)}; write whole backbones"
        )
    return found.second.coordinates.float()


def outside_rows(
    cases: EvaluationCases, options: argparse.Namespace, threshold: float
) -> list[Row]:
    """A row for each protein that has an ensemble.

    Raises:
        ValueError: naming all ensembles that do not fit, or if there is none.
    """
    there = entries(options.ensembles)
    rows, bad, without = [], [], []
    for case in cases:
        name = case.name.replace("/", "_")
        if name not in there:
            without.append(case.name)
            continue
        path, topology = there.pop(name)
        try:
            theirs = load_ensemble(
                path, topology=topology, name=case.name, max_frames=options.max_frames
            )
            made = conformers(case, theirs)
            if options.asked is not None and options.asked < len(made):
                raise UserError(f"{path} has {len(made)} conformers, --asked is {options.asked}")
            scores = score_conformers(made, case, threshold)
        except UserError as error:
            bad.append(str(error))
            continue
        row = conformer_row(case.head, f"{OUTSIDE} {options.name}", scores)
        if options.asked is not None:
            row[ACCEPTED] = len(made) / options.asked
        rows.append(row)
        print(f"{case.group} {case.name}: {len(made)} conformers of {path}", flush=True)
    if bad and not (options.skip_bad and rows):
        raise UserError(f"{len(bad)} of {len(bad) + len(rows)} ensembles do not fit: "
                        f"{'; '.join(bad)}")  # fmt: skip
    for line in bad:
        print(f"left out: {line}")
    if there:
        print(f"not used, as no protein is called so: {listed(list(there))}")
    if without:
        print(f"without an ensemble in {options.ensembles}: {listed(without)}")
    if not rows:
        raise UserError(
            f"{options.ensembles} has an ensemble of none of the proteins; call it as in the "
            f"table: {listed(without)}"
        )
    return rows


def table_key(rows: Sequence[Row], path: Path, data: EnsembleDataModule) -> dict[str, str]:
    """The experiment of the rows that are there, or that of the default settings.

    Raises:
        ValueError: if there are several, or they are of another split.
    """
    if not rows:
        return experiment(EvaluationSettings(figures=0), False, data)
    keys = {(row["settings"], row["split"]) for row in rows}
    settings, split = next(iter(keys))
    if len(keys) > 1 or split != data.split.digest:
        raise UserError(
            f"{path} holds {'several experiments' if len(keys) > 1 else 'another split'}; give "
            "the configurations it was made with, or another --out"
        )
    return {"settings": settings, "split": split}


def run(options: argparse.Namespace) -> None:
    """Score the ensembles, and put their rows beside those that are there."""
    data, cases = read_cases(merged(options.config))
    prepare_folder(options.out, "--out")
    path = options.out / "results.jsonl"
    rows = read(path)
    key = table_key(rows, path, data)
    origin = {"maker": f"{OUTSIDE} {options.name}", "machine": describe_machine()}
    threshold = json.loads(key["settings"])["threshold"]
    new = [{**row, **origin, **key} for row in outside_rows(cases, options, threshold)]
    replaced = {(row["maker"], row["protein"]) for row in new}
    rows = [row for row in rows if (row["maker"], row["protein"]) not in replaced]
    with atomic_path(path) as partial:
        partial.write_text(to_json_lines([*rows, *new], escape=True), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--config", type=Path, action="append", required=True, help="as for lightning; repeatable"
    )
    parser.add_argument("--name", required=True, help="of the sampler, in the table")
    parser.add_argument("--ensembles", type=Path, required=True, help="folder; see above")
    parser.add_argument("--asked", type=int, help="draws of each protein, with those left out")
    parser.add_argument("--max-frames", type=int, help="of trajectories, evenly spaced; or all")
    parser.add_argument("--skip-bad", action="store_true", help="go on without what does not fit")
    parser.add_argument("--out", type=Path, default=Path("runs/protein_table"))
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", module="lightning")
    try:
        run(options)
    except UserError as error:
        sys.exit(f"outside: {error}")


if __name__ == "__main__":
    main()
