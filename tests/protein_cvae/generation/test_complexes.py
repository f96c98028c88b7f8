"""Several chains, and chains with gaps, as one object through every task."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from protein_runs import CA, all_inside, tiny_module
from torch import Tensor

from common.training.trainer import quiet_trainer
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.settings import DrawSettings, Sources
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.encode import encode_models
from protein_cvae.generation.generate import GenerateOptions, generate
from protein_cvae.generation.inputs import CHAIN_LEFT_OUT, ReadingOptions, read_input, select_chains
from protein_cvae.generation.interpolate import InterpolateOptions, interpolate
from protein_cvae.generation.outputs import check_validity
from protein_cvae.generation.spread import SpreadOptions
from protein_cvae.geometry.projection import inside_tolerance
from protein_cvae.geometry.refine import finish
from protein_cvae.geometry.superposition import mean_rmsd
from protein_cvae.io import write_ensemble
from protein_cvae.model.network import ProteinCVAE

CONTACT, CLASH = 8.0, 3.0
DATA = Path(os.environ.get("EDGEWISE_DATA", Path(__file__).parents[4] / "shared" / "data"))
NMR = DATA / "ensembles" / "nmr"
REAL = ["2jo4.pdb.gz", "2beg.cif.gz", "2lyw.cif.gz"]


def paired(protein: Ensemble, gap: float) -> Ensemble:
    """The protein and a copy beside it, whose nearest CA in the first model is ``gap`` Å away."""
    ca = protein.coordinates[0, :, CA]
    # Along the thinnest direction, so that much of both is at the interface.
    _, _, axes = torch.linalg.svd(ca - ca.mean(0))
    low, high = 0.0, 200.0
    for _ in range(40):
        middle = (low + high) / 2
        near = float(torch.cdist(ca, ca + middle * axes[2]).min())
        low, high = (middle, high) if near < gap else (low, middle)
    length = protein.length
    return replace(
        protein,
        name="dimer",
        coordinates=torch.cat([protein.coordinates, protein.coordinates + high * axes[2]], dim=1),
        mask=protein.mask.repeat(1, 2),
        sequence=2 * protein.sequence,
        chain_index=torch.arange(2).repeat_interleave(length),
        chain_ids=("A", "B"),
        residue_numbers=protein.residue_numbers.repeat(2),
        insertion_codes=2 * protein.insertion_codes,
        bonded=protein.bonded.repeat(2),
    )


@pytest.fixture(scope="module")
def dimer(protein: Ensemble) -> Ensemble:
    return paired(protein, 5.0)


def between(ensemble: Ensemble) -> Tensor:
    """(M, L, L) Å between CA of two chains, infinite elsewhere."""
    ca, chain = ensemble.coordinates[:, :, CA].double(), ensemble.chain_index
    gap = (ca[:, :, None] - ca[:, None]).square().sum(-1).sqrt()
    return gap.masked_fill(chain[:, None] >= chain, torch.inf)


def kept(made: Ensemble, given: Ensemble) -> float:
    """Share of the interface contacts of most given models that conformers have."""
    contacts = (between(given) < CONTACT).double().mean(0) >= 0.5
    assert int(contacts.sum()) >= 5
    return float((between(made)[:, contacts] < CONTACT).double().mean())


@pytest.mark.parametrize("mode", ["resample", "around", "prior"])
def test_a_dimer_keeps_its_interface_and_its_chains_do_not_clash(
    network: ProteinCVAE, dimer: Ensemble, mode: str
) -> None:
    made = generate(network, dimer, GenerateOptions(mode, count=6))  # type: ignore[arg-type]
    assert made.chain_ids == ("A", "B")
    assert torch.equal(made.bonded, dimer.bonded)
    assert all_inside(made)
    assert float(between(made).min()) >= CLASH
    # Behind the last residue of A no bond is made.
    c, n = made.coordinates[:, 25, 2], made.coordinates[:, 26, 0]
    assert float((c - n).norm(dim=-1).min()) > 2.0
    assert kept(made, dimer) > 0.6
    assert mean_rmsd(made.coordinates[:, :, CA]) > 0.05


def test_a_told_dimer_keeps_its_interface(network: ProteinCVAE, dimer: Ensemble) -> None:
    made = generate(network, dimer, GenerateOptions("prior", 16, spread=SpreadOptions(rmsd=0.8)))
    assert mean_rmsd(made.coordinates[:, :, CA]) == pytest.approx(0.8, rel=0.05)
    assert float(between(made).min()) >= CLASH
    assert kept(made, dimer) > 0.8
    assert all_inside(made)


def test_the_path_and_the_latents_of_a_dimer(network: ProteinCVAE, dimer: Ensemble) -> None:
    ends = (dimer.select_models([0]), dimer.select_models([5]))
    path = interpolate(network, *ends, InterpolateOptions(steps=4))
    assert all_inside(path)
    assert float(between(path).min()) >= CLASH
    own = [kept(end, dimer) for end in ends]
    assert kept(path, dimer) > sum(own) / 2 - 0.15
    latents = encode_models(network, dimer)
    assert latents.z_local.shape[:2] == (6, 52)
    assert latents.residues[25].startswith("A ")
    assert latents.residues[26].startswith("B ")


def test_chains_that_overlap_are_parted_as_parts_of_one_chain_are(protein: Ensemble) -> None:
    near = paired(protein, 1.5)
    x = near.coordinates[:2]
    assert float(between(near.select_models([0, 1])).min()) < CLASH
    mask, bonded = near.mask[:2], near.bonded.expand(2, -1)
    done = finish(x, bonded, mask, near.aatype.expand(2, -1))
    after = replace(near.select_models([0, 1]), coordinates=done)
    assert float(between(after).min()) >= CLASH
    assert bool(inside_tolerance(done, bonded, mask).all())
    # Parted, and not thrown apart.
    assert float(between(after).min()) < 6.0


def test_a_gap_within_a_chain_is_neither_bonded_nor_torn(
    network: ProteinCVAE, protein: Ensemble
) -> None:
    place = torch.arange(protein.length)
    gapped = protein.select_residues((place < 10) | (place >= 14))
    assert not bool(gapped.bonded[9])
    for mode in ("resample", "prior"):
        made = generate(network, gapped, GenerateOptions(mode, count=6))  # type: ignore[arg-type]
        validity = check_validity(made)
        assert all_inside(made)
        assert not bool(validity.torn.any())
        assert not bool(validity.linked[:, 9].any())
        c, n = made.coordinates[:, 9, 2], made.coordinates[:, 10, 0]
        assert float((c - n).norm(dim=-1).min()) > 2.0
    told = GenerateOptions("prior", 16, spread=SpreadOptions(rmsd=4.0))
    wide = generate(network, gapped, told)
    assert not bool(check_validity(wide).torn.any())
    assert all_inside(wide)


def test_training_takes_all_chains(dimer: Ensemble, tmp_path: Path) -> None:
    write_ensemble(tmp_path / "dimer.pdb", dimer)
    data = EnsembleDataModule(
        Sources(structures=(str(tmp_path),), chains="all"),
        draws=DrawSettings(batch_proteins=1, models_per_protein=2, per_epoch=1),
    )
    module = tiny_module()
    seen: list[ProteinBatch] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            seen.append(batch)

    before = [p.detach().clone() for p in module.parameters()]
    quiet_trainer(1, limit_val_batches=0, callbacks=[Watch()]).fit(module, data)
    (batch,) = seen
    assert batch.chain_index[0].tolist() == 26 * [0] + 26 * [1]
    assert not bool(batch.bonded[:, 25].any())
    after = list(module.parameters())
    assert all(bool(torch.isfinite(p).all()) for p in after)
    assert any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))


def test_which_chains_are_taken_and_what_is_left_out(dimer: Ensemble, tmp_path: Path) -> None:
    path = tmp_path / "dimer.cif"
    write_ensemble(path, dimer)
    longest = read_input(path, "input")
    assert longest.chain_ids == ("A",)
    (note,) = longest.report.of_kind(CHAIN_LEFT_OUT)
    assert note.detail == "B: the longest chain is taken; chains all takes all"
    for chains, expected in (("all", ("A", "B")), ("B", ("B",)), ("B, A", ("A", "B"))):
        taken = read_input(path, "input", ReadingOptions(chains))
        assert taken.chain_ids == expected
        assert not taken.report.of_kind(CHAIN_LEFT_OUT)
    with pytest.raises(ValueError, match=r"no chain 'C'; chains must be .*A \(26 residues\)"):
        select_chains(dimer, "A,C")
    with pytest.raises(ValueError, match="chain 'A' stands twice"):
        select_chains(dimer, "A,A")


@pytest.mark.parametrize("name", REAL)
def test_real_complexes_keep_their_interfaces(network: ProteinCVAE, name: str) -> None:
    if not (NMR / name).is_file():
        pytest.skip("real ensembles not present; set EDGEWISE_DATA")
    given = read_input(NMR / name, "input", ReadingOptions("all"))
    own = kept(given, given)
    for mode in ("resample", "prior"):
        made = generate(network, given, GenerateOptions(mode, count=6))  # type: ignore[arg-type]
        assert all_inside(made)
        assert float(between(made).min()) >= CLASH
        assert not bool(check_validity(made).torn.any())
        assert kept(made, given) > own - 0.25
