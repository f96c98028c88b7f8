"""A folder as the pages assume it: simulated files under ``my/``, small configurations, models.

my/A1.h5ad A2.h5ad B.h5ad C.h5ad      slides of one tissue
my/cells.h5ad                         dissociated cells of it
my/all.h5ad                           two sections in one file
my/nmr/*.cif.gz                       ensembles of three proteins
my/2sdf.pdb closed.pdb open.pdb       one of them, and two of its models
my/sequence.fasta                     its sequence
my/md/                                topology and trajectory
configs/                              those that ship, made small
runs/mine/*.ckpt, runs/*.ckpt         trained models
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import mdtraj
import numpy as np
import pytest
import yaml
from page_blocks import ROOT
from page_commands import TISSUE, bootstrap_here, run_stage_here, write_tools
from protein_runs import SIZES

import protein_cvae
import spatial_ipa
from protein_cvae import presets
from protein_cvae.data.simulate import simulate_ensembles
from spatial_ipa.data.simulation.files import TissueSpec, write_tissue

NETWORK = {**SIZES, "d_global": 8}
MINISETS = {
    "per_epoch": 4, "val_per_slide": 2, "batch_size": 2, "size_min": 40, "size_max": 60,
    "num_candidates": 15, "num_rows": None, "num_workers": 0,
}  # fmt: skip
DRAWS = {"batch_proteins": 2, "models_per_protein": 2, "per_epoch": 4, "val_models_per_protein": 1}
SMALL: dict[str, dict[str, Any]] = {
    "spatial_ipa/encoder.yaml": {
        "data": {"init_args": {"simulate": {"folder": "runs/tissue", **TISSUE}}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    },
    "spatial_ipa/fit.yaml": {
        "model": {"init_args": {
            "network": {"c_s": 16, "c_head": 8}, "schedule": {"gate_steps": 3, "ramp_epochs": 0}
        }},
        "data": {"init_args": {
            "minisets": MINISETS, "simulate": {"folder": "runs/tissue", **TISSUE}
        }},
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    },
    "spatial_ipa/laptop.yaml": {
        "data": {"init_args": {"minisets": MINISETS}}, "trainer": {"max_epochs": 2}
    },
    "spatial_ipa/quickstart.yaml": {
        "model": {"init_args": {"schedule": {"gate_steps": 3, "ramp_epochs": 0}}},
        "data": {"init_args": {"minisets": MINISETS}},
        "trainer": {"max_epochs": 1},
    },
    "protein_cvae/fit.yaml": {
        "model": {"init_args": {"network": NETWORK}},
        "data": {"init_args": {
            "draws": DRAWS, "num_workers": 0,
            "simulate": {"num_proteins": 3, "num_models": 6, "min_length": 26, "max_length": 26},
        }},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    },
    "protein_cvae/laptop.yaml": {
        "model": {"init_args": {"network": NETWORK}},
        "data": {"init_args": {"draws": DRAWS}},
        "trainer": {"max_epochs": 1},
    },
    "protein_cvae/trajectory.yaml": {"data": {"init_args": {
        "split": {"blocks": {"count": 4}}, "draws": DRAWS
    }}},
    "protein_cvae/evaluate.yaml": {"model": {"init_args": {"evaluation": {
        "count": 4, "figures": 1
    }}}},
}  # fmt: skip
PRESET = presets.Preset(
    network=protein_cvae.NetworkSettings(**NETWORK),
    draws=protein_cvae.DrawSettings(**DRAWS),
    max_epochs=1,
)


def make_small(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """What is fitted in ``folder`` is fitted with its own small configurations, in this process."""
    patch.setattr("spatial_ipa.pipeline.fit.shipped_config", lambda name: folder / "configs" / name)
    for module in ("spatial_ipa.pipeline.stages", "spatial_ipa.encoder.stage"):
        patch.setattr(f"{module}.run_stage", run_stage_here)
    for size in ("laptop", "full", "trajectory"):
        patch.setitem(presets.PRESETS, size, PRESET)


def build(folder: Path) -> None:
    """Write everything of the module's text into ``folder``, which is the working directory."""
    my = folder / "my"
    my.mkdir()
    _write_configs(folder / "configs")
    write_tools(folder / ".bin")
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    _write_tissue(my)
    _write_proteins(my)
    spatial_ipa.fit("my/A*.h5ad", validation="my/B.h5ad", scrna="my/cells.h5ad", out="runs/mine")
    protein_cvae.fit("my/nmr/*.cif.gz", out="runs/mine", accelerator="cpu", progress=False)
    for name in ("spatial_ipa.ckpt", "protein_cvae.ckpt"):
        shutil.copy(folder / "runs/mine" / name, folder / "runs" / name)
    bootstrap_here(["run"])


def _write_configs(folder: Path) -> None:
    shutil.copytree(ROOT / "configs", folder)
    for name, changes in SMALL.items():
        content = yaml.safe_load((folder / name).read_text())
        _merge(content, changes)
        (folder / name).write_text(yaml.safe_dump(content))


def _merge(content: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(content.get(key), dict):
            _merge(content[key], value)
        else:
            content[key] = value


def _write_tissue(my: Path) -> None:
    paths = write_tissue(TissueSpec(**TISSUE), my.parent / "tissue")
    for name, source in zip(("A1", "A2", "B", "C"), paths.slides, strict=False):
        slide = ad.read_h5ad(source)
        slide.layers["counts"] = slide.X.copy()
        slide.var["symbol"] = slide.var_names.to_numpy()
        slide.write_h5ad(my / f"{name}.h5ad")
    shutil.copy(paths.scrna, my / "cells.h5ad")
    both = {name: ad.read_h5ad(my / f"{name}.h5ad") for name in ("A1", "A2")}
    ad.concat(both, label="library_id", index_unique="-").write_h5ad(my / "all.h5ad")
    shutil.rmtree(my.parent / "tissue")


def _write_proteins(my: Path) -> None:
    (my / "nmr").mkdir()
    ensembles = list(simulate_ensembles(3, 8, 26, 26, seed=0))
    for name, ensemble in zip(("2sdf", "2l7b", "1d3z"), ensembles, strict=True):
        protein_cvae.write(my / "nmr" / f"{name}.cif.gz", ensemble)
    first = ensembles[0]
    protein_cvae.write(my / "2sdf.pdb", first)
    protein_cvae.write(my / "closed.pdb", first.select_models([0]))
    protein_cvae.write(my / "open.pdb", first.select_models([first.num_models - 1]))
    (my / "sequence.fasta").write_text(f">mine\n{first.sequence}\n")
    (my / "md").mkdir()
    shutil.copy(my / "closed.pdb", my / "md" / "topology.pdb")
    frames = mdtraj.load(str(my / "2sdf.pdb"))
    frames.xyz = frames.xyz.astype(np.float32)
    frames.save_xtc(str(my / "md" / "run.xtc"))
