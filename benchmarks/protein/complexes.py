"""Complexes made as one object: what becomes of their interfaces.

    python benchmarks/protein/complexes.py run --data ENSEMBLES --out runs/protein_complexes
    python benchmarks/protein/complexes.py report --out runs/protein_complexes

``ENSEMBLES`` is a folder of ensembles (files and trajectory folders, searched with its subfolders);
those with several chains are taken, up to the 1,000 residues that the model takes (of more, the
longest chains that fit).  An interface contact is a pair of CA of two chains within 8 Å in at least
half of the given models.  ``run`` appends a row per complex and maker to ``<out>/results.jsonl``,
small ones first; what is there is skipped.  Without ``--ckpt`` the network is an untrained one of
laptop size, whose decoder hardly moves what the latents say.

Makers: the given models; modes ``resample`` and ``prior`` with all chains at once; the same with
each chain by itself, each in the pose that it has in the template, which is what one gets without
complexes; and the path from the first to the last model, with all chains.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from experiment import read
from torch import Tensor

from common.report.machine import describe_machine, machines_of
from common.report.tables import markdown_table, number, to_json_lines
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.encode import encode_models
from protein_cvae.generation.generate import GenerateOptions, Mode, generate_prepared
from protein_cvae.generation.inputs import MAX_RESIDUES, prepare
from protein_cvae.generation.interpolate import InterpolateOptions, interpolate
from protein_cvae.generation.outputs import check_validity
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.superposition import mean_rmsd
from protein_cvae.geometry.validity import CLASH_DISTANCE
from protein_cvae.io import find_ensembles, load_ensemble
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.presets import LAPTOP
from protein_cvae.trained import load

Row = dict[str, Any]
CONTACT = 8.0  # Å
COLUMNS = {
    "kept": "contacts kept",
    "lowest": "least kept",
    "nearest": "nearest CA between chains Å",
    "clash": "clash between chains",
    "clash_any": "clash",
    "inside": "inside 4 sd",
    "torn": "torn",
    "valid": "valid",
    "spread": "mean pairwise CA-RMSD Å",
    "seconds": "s per conformer",
}


def distances(ensemble: Ensemble) -> Tensor:
    """(M, L, L) Å between CA of two chains, each pair once; infinite elsewhere."""
    ca, chain = ensemble.coordinates[:, :, CA], ensemble.chain_index
    pair = chain[:, None] < chain
    return torch.stack([torch.cdist(x, x).masked_fill(~pair, torch.inf) for x in ca])


def scored(made: Ensemble, contacts: Tensor) -> Row:
    """Scores of conformers with the interface contacts (L, L) bool."""
    d, validity = distances(made), check_validity(made).summary()
    kept = (d[:, contacts] < CONTACT).double().mean(1)
    nearest = d.flatten(1).amin(1)
    return {
        "kept": float(kept.mean()),
        "lowest": float(kept.min()),
        "nearest": float(nearest.min()),
        "clash": float((nearest < CLASH_DISTANCE).double().mean()),
        "clash_any": validity["clash"],
        **{key: validity[key] for key in ("inside", "torn", "valid")},
        "spread": mean_rmsd(made.coordinates[:, :, CA]),
    }


def together(network: ProteinCVAE, mode: Mode, count: int, seed: int) -> Callable[..., Ensemble]:
    """A maker: all chains at once."""

    def make(ensemble: Ensemble) -> Ensemble:
        options = GenerateOptions(mode, count, seed=seed)
        return generate_prepared(network, prepare(ensemble, None), options)

    return make


def apart(network: ProteinCVAE, mode: Mode, count: int, seed: int) -> Callable[..., Ensemble]:
    """A maker: each chain by itself, with draws of its own."""

    def make(ensemble: Ensemble) -> Ensemble:
        central = prepare(ensemble, None).central
        number = ensemble.model_numbers[central]
        x = ensemble.coordinates.new_zeros(count, ensemble.length, 3, 3)
        for chain in range(len(ensemble.chain_ids)):
            options = GenerateOptions(mode, count, model=number, seed=seed + chain)
            one = prepare(ensemble.select_chain(chain), None)
            made = generate_prepared(network, one, options)
            x[:, ensemble.chain_index == chain] = made.coordinates
        return replace(ensemble, coordinates=x, mask=torch.ones(x.shape[:2], dtype=torch.bool),
                       model_numbers=tuple(range(1, count + 1)))  # fmt: skip

    return make


def path(network: ProteinCVAE, count: int) -> Callable[..., Ensemble]:
    """A maker: the path from the first to the last model."""

    def make(ensemble: Ensemble) -> Ensemble:
        ends = (ensemble.select_models([i]) for i in (0, ensemble.num_models - 1))
        return interpolate(network, *ends, InterpolateOptions(count))

    return make


def complexes(options: argparse.Namespace) -> Iterator[Ensemble]:
    """The complexes, small ones first."""
    found = []
    for file in find_ensembles([options.data]):
        name = file.name.split(".")[0]
        name = f"md_{name}" if file.is_dir() else name
        if options.proteins and name not in options.proteins:
            continue
        ensemble = load_ensemble(file, name=name, max_frames=options.frames)
        ensemble = fitting(ensemble.select_residues(ensemble.mask.all(0)))
        if len(ensemble.chain_ids) > 1:
            found.append(ensemble)
    yield from sorted(found, key=lambda e: e.length)


def fitting(ensemble: Ensemble) -> Ensemble:
    """The longest chains that the model takes together."""
    counts = torch.bincount(ensemble.chain_index, minlength=len(ensemble.chain_ids))
    kept, total = torch.zeros(len(counts), dtype=torch.bool), 0
    for chain in counts.argsort(descending=True, stable=True).tolist():
        if total + int(counts[chain]) <= MAX_RESIDUES:
            kept[chain], total = True, total + int(counts[chain])
    return ensemble.select_residues(kept[ensemble.chain_index])


def run(options: argparse.Namespace) -> None:
    """Append what is missing to results.jsonl."""
    torch.set_num_threads(options.threads)
    if options.ckpt is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            network = ProteinCVAE(LAPTOP.network).eval()
    else:
        network = load(options.ckpt).network
    options.out.mkdir(parents=True, exist_ok=True)
    out = options.out / "results.jsonl"
    settings = json.dumps({
        "count": options.count, "frames": options.frames, "seed": options.seed,
        "network": "untrained" if options.ckpt is None else options.ckpt.name,
    })  # fmt: skip
    done = {(row["complex"], row["maker"], row["settings"]) for row in read(out)}
    drawn = (network, "resample", options.count, options.seed)
    prior = (network, "prior", options.count, options.seed)
    makers: dict[str, Callable[[Ensemble], Ensemble]] = {
        "given models": lambda ensemble: ensemble,
        "resample, all chains": together(*drawn),
        "resample, chains by themselves": apart(*drawn),
        "prior, all chains": together(*prior),
        "prior, chains by themselves": apart(*prior),
        "path, all chains": path(network, options.count),
    }
    for ensemble in complexes(options):
        near = (distances(ensemble) < CONTACT).double().mean(0) >= 0.5
        for maker, make in makers.items():
            if (ensemble.name, maker, settings) in done:
                continue
            start = time.perf_counter()
            made = make(ensemble)
            seconds = (time.perf_counter() - start) / made.num_models
            row = {
                "complex": ensemble.name, "chains": len(ensemble.chain_ids),
                "residues": ensemble.length, "breaks": breaks(ensemble),
                "contacts": int(near.sum()), "maker": maker, **scored(made, near),
                "seconds": seconds, "settings": settings, "machine": describe_machine(),
            }  # fmt: skip
            if maker == "given models":
                latents = encode_models(network, ensemble.select_models([0, 1]))
                row["encoded"] = latents.z_local.shape[1]  # residues
            with out.open("a", encoding="utf-8") as file:
                file.write(to_json_lines([row], escape=True))
            shown = " ".join(f"{key} {row[key]:.3f}" for key in COLUMNS)
            print(f"{ensemble.name} {maker}: {shown}", flush=True)


def breaks(ensemble: Ensemble) -> int:
    """Places inside chains where the next residue is not bonded."""
    same = ensemble.chain_index[1:] == ensemble.chain_index[:-1]
    return int((same & ~ensemble.bonded[:-1]).sum())


def report(options: argparse.Namespace) -> None:
    """Print the means, then a table per complex."""
    rows = read(options.out / "results.jsonl")
    if len({row["settings"] for row in rows}) != 1:
        raise SystemExit(f"{options.out}/results.jsonl holds none or several settings")
    makers = list(dict.fromkeys(row["maker"] for row in rows))
    names = list(dict.fromkeys(row["complex"] for row in rows))
    by = {(row["complex"], row["maker"]): row for row in rows}
    whole = [name for name in names if all((name, maker) in by for maker in makers)]
    print(f"{machines_of(rows)}\n{' '.join(sys.argv)}\n{rows[0]['settings']}\n")
    touching = [name for name in whole if by[name, makers[0]]["contacts"] > 0]
    print(f"Means over {len(touching)} complexes with interface contacts:\n")
    lines = []
    for maker in makers:
        mine = [by[name, maker] for name in touching]
        lines.append([maker, *(number(sum(r[c] for r in mine) / len(mine)) for c in COLUMNS)])
    print(markdown_table(["", *COLUMNS.values()], lines))
    print("\nEach complex (chains, residues, breaks inside chains, contacts):\n")
    head = [
        "",
        "given: kept, nearest Å",
        *(f"{maker}: kept, nearest Å, clash" for maker in makers[1:]),
    ]
    lines = []
    for name in whole:
        first = by[name, makers[0]]
        size = f"{first['chains']}, {first['residues']}, {first['breaks']}, {first['contacts']}"
        cells = [f"{number(first['kept'], 2)}, {first['nearest']:.1f}"]
        for maker in makers[1:]:
            row = by[name, maker]
            cells.append(f"{number(row['kept'], 2)}, {row['nearest']:.1f}, {row['clash']:.2f}")
        lines.append([f"{name} ({size})", *cells])
    print(markdown_table(head, lines))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--data", type=Path, help="folder of ensembles")
    parser.add_argument("--proteins", nargs="+", help="these alone, e.g. 2beg md_hivpr")
    parser.add_argument("--ckpt", type=Path, help="trained model; an untrained one if omitted")
    parser.add_argument("--out", type=Path, default=Path("runs/protein_complexes"))
    parser.add_argument("--count", type=int, default=16, help="conformers per complex")
    parser.add_argument("--frames", type=int, default=20, help="most frames of a trajectory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.command == "run" and options.data is None:
        parser.error("run needs --data")
    (run if options.command == "run" else report)(options)


if __name__ == "__main__":
    main()
