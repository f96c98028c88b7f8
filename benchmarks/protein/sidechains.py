"""Side chains of conformers: carried from the input or packed, beside those of real models.

    python benchmarks/protein/sidechains.py DATA [--files 2sdf.pdb.gz ...] [--checkpoint CKPT]

DATA is a folder of NMR ensembles.  Held out: a model is taken out of its ensemble, its side chains
are placed on its backbone and compared with its own.  Generated, with a checkpoint: conformers of
mode ensemble.  Side chains:

===========  ====================================================================================
carried      what ``generate`` does: from the nearest other model by CA-RMSD, those that overlap
             exchanged
nearest      from the nearest other model, whatever overlaps
another      from one other model drawn at random, whatever overlaps: real models' own variation
packer       FASPR on the backbone alone
real         the models' own
===========  ====================================================================================

``chi1`` is the share of residues (proline aside) whose χ₁ is within 40° of the model's, of a
generated conformer's of the model nearest to it; clashes are those of
``protein_cvae.geometry.clashes``, per 1000 heavy atoms; ``severe`` are overlaps of 1.5 Å, the
tolerance of AlphaFold's violations (Jumper et al. 2021, Nature 596, 583-589).  Seconds are of one
processor, per conformer.  O stands where the backbone puts it, of real models, too.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from common.files.atomic import atomic_path
from common.files.checkpoint import read_checkpoint
from common.report.machine import describe_machine
from common.report.tables import markdown_table, number
from common.rng import generator_for
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.generate import GenerateOptions
from protein_cvae.generation.packer import pack
from protein_cvae.generation.side_chains import (
    carried_side_chains,
    heavy_atoms,
    nearest_models,
)
from protein_cvae.geometry.clashes import clashes_per_1000
from protein_cvae.geometry.side_chains import chi1, has_chi1
from protein_cvae.io import load_ensemble
from protein_cvae.residues import ALPHABET
from protein_cvae.side_chains import SideChains
from protein_cvae.trained import load

FILES = (
    "2sdf.pdb.gz", "1d3z.pdb.gz", "1gya.pdb.gz", "1ah1.cif.gz", "1tap.pdb.gz", "1adz.pdb.gz",
    "2eqq.pdb.gz", "2kcu.pdb.gz", "1pqx.cif.gz", "2lci.cif.gz",
)  # fmt: skip
WITHIN = math.radians(40.0)
SEVERE = 1.5  # Å
HEAD = """# Side chains of conformers

Made by `benchmarks/protein/sidechains.py` on {machine}.

| column | content |
| --- | --- |
| `chi1` | share of residues, proline aside, whose χ₁ is within 40° of the model's (of a generated conformer, of the model nearest to it) |
| `clashes` | pairs of heavy atoms that overlap by 0.6 Å or more (UCSF Chimera's definition, Bondi's radii, 0.4 Å allowed between N and O), of residues that are no neighbours, per 1000 heavy atoms |
| `severe` | the same from 1.5 Å, AlphaFold's tolerance |
| `seconds` | of one processor, per conformer, child processes included |

| side chains | content |
| --- | --- |
| `carried` | what `generate` does: from the nearest other model by CA-RMSD, those that overlap exchanged for other models' |
| `nearest` | from the nearest other model, whatever overlaps |
| `another` | from one other model drawn at random: how far real models agree |
| `packer` | FASPR on the backbone alone |
| `real` | the models' own |

Residues are those of the longest chain that all models have with all heavy atoms. The tolerance of the exchange (0.5 Å) and the cost
of a turned χ₁ (0.5 Å) were chosen on 2sdf, 1tap and 1ah1; the other ensembles had no part in it.
"""  # noqa: E501
COLUMNS = ("chi1", "clashes", "severe", "seconds")
Row = dict[str, float | str]


def complete(path: Path) -> Ensemble:
    """The longest chain, its residues that every model has with all heavy atoms."""
    chain = load_ensemble(path, side_chains=True).select_chain("longest")
    assert chain.side_chains is not None
    whole = chain.side_chains.complete(chain.sequence) & chain.mask
    return chain.select_residues(whole.all(0))


def rotamers(ensemble: Ensemble) -> Tensor:
    """(M, L) radians, χ₁; NaN where a residue has none, and of proline."""
    side = ensemble.side_chains
    assert side is not None
    there = has_chi1(ensemble.aatype) & (ensemble.aatype != ALPHABET.index("P"))
    angle = chi1(ensemble.coordinates, side.local, there.expand(ensemble.mask.shape))
    return torch.where(there, angle, torch.nan)


def agreement(found: Tensor, wanted: Tensor) -> float:
    """Share of the angles (..., L) that are within 40°; NaN ones aside."""
    defined = ~torch.isnan(found) & ~torch.isnan(wanted)
    gap = (found - wanted + math.pi).remainder(2 * math.pi) - math.pi
    return float((gap.abs() <= WITHIN)[defined].double().mean())


def scores(ensemble: Ensemble, seconds: float, wanted: Tensor | None = None) -> Row:
    """One row: χ₁ against ``wanted`` (M, L), clashes, seconds per conformer."""
    atoms, mask = heavy_atoms(ensemble)
    where = ensemble.sequence, ensemble.chain_index
    return {
        "chi1": math.nan if wanted is None else agreement(rotamers(ensemble), wanted),
        "clashes": clashes_per_1000(atoms, mask, *where),
        "severe": clashes_per_1000(atoms, mask, *where, overlap=SEVERE),
        "seconds": seconds / ensemble.num_models,
    }


def timed(ensemble: Ensemble, place: Callable[[], SideChains]) -> tuple[Ensemble, float]:
    """With the side chains, and processor time, s, that of child processes included."""
    start = time.process_time() + children()
    found = place()
    seconds = time.process_time() + children() - start
    return replace(ensemble, side_chains=found), seconds


def children() -> float:
    """Processor time of processes that have ended, s."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def held_out(ensemble: Ensemble, count: int) -> Iterator[tuple[str, Row]]:
    """Rows of models whose side chains are placed anew on their own backbones."""
    chosen = torch.linspace(0, ensemble.num_models - 1, count).round().unique().long().tolist()
    real = ensemble.select_models(chosen)
    wanted = rotamers(real)
    order = nearest_models(real, ensemble)
    random = torch.stack([
        torch.randperm(ensemble.num_models, generator=generator_for(0, m)) for m in chosen
    ])  # fmt: skip
    for name, ranks, relieve in (
        ("carried", order, True), ("nearest", order, False), ("another", random, False)
    ):  # fmt: skip
        others = torch.stack([row[row != m] for m, row in zip(chosen, ranks, strict=True)])
        place = partial(carried_side_chains, real, ensemble, others, relieve)
        yield name, scores(*timed(real, place), wanted)
    yield "packer", scores(*timed(real, partial(pack, real)), wanted)
    yield "real", scores(real, 0.0)


def generated(made: Ensemble, ensemble: Ensemble) -> Iterator[tuple[str, Row]]:
    """Rows of generated conformers."""
    order = nearest_models(made, ensemble)
    wanted = rotamers(ensemble)[order[:, 0]]
    for name, relieve in (("carried", True), ("nearest", False)):
        place = partial(carried_side_chains, made, ensemble, order, relieve)
        yield name, scores(*timed(made, place), wanted)
    yield "packer", scores(*timed(made, partial(pack, made)), wanted)
    yield "real", scores(ensemble, 0.0)


def mean(rows: Sequence[Mapping[str, float | str]], column: str) -> float:
    """Mean of a column."""
    return sum(float(row[column]) for row in rows) / len(rows)


def table(rows: Sequence[Row]) -> str:
    """Means over proteins of each method, and all rows."""
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    lines = [
        [
            "**mean**",
            method,
            *(number(mean([r for r in rows if r["method"] == method], c)) for c in COLUMNS),
        ]
        for method in methods
    ]
    lines += [
        [str(row["protein"]), str(row["method"]), *(number(float(row[c])) for c in COLUMNS)]
        for row in rows
    ]
    return markdown_table(["protein", "side chains", *COLUMNS], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder of the files")
    parser.add_argument("--files", nargs="+", default=FILES)
    parser.add_argument("--models", type=int, default=5, help="held out of each ensemble")
    parser.add_argument("--checkpoint", type=Path, help="of a trained model, for generated ones")
    parser.add_argument("--count", type=int, default=5, help="conformers generated of each")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    given = parser.parse_args()
    held: list[Row] = []
    made: list[Row] = []
    for file in given.files:
        ensemble = complete(given.data / file)
        protein: Row = {"protein": ensemble.name}
        held += [protein | {"method": m} | row for m, row in held_out(ensemble, given.models)]
        if given.checkpoint is not None:
            options = GenerateOptions(count=given.count, atoms="backbone")
            new = load(given.checkpoint).generate(ensemble, options)
            made += [protein | {"method": m} | row for m, row in generated(new, ensemble)]
        print(table(held[-5:]), flush=True)
    text = HEAD.format(machine=describe_machine("pyfaspr"))
    text += f"\n## Held-out models\n\n{given.models} of each ensemble.\n\n{table(held)}\n"
    if made:
        steps = read_checkpoint(given.checkpoint)["global_step"]
        text += f"\n## Generated conformers\n\n{given.count} of each ensemble, mode ensemble, "
        text += f"by a model of {steps} training steps.\n\n{table(made)}\n"
    print(text)
    if given.output is not None:
        with atomic_path(given.output) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
