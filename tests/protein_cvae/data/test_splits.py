"""Families keep relatives together; no model is both learned from and judged on."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from protein_cvae.data.families import find_families, identity, related, strip_tags
from protein_cvae.data.splits import EnsembleSplit, chain_sequences, model_hashes
from protein_cvae.ensemble import Ensemble
from protein_cvae.io.find import load_ensemble
from protein_cvae.residues import ALPHABET

DATA = Path(os.environ.get("EDGEWISE_DATA", Path(__file__).parents[3].parent / "shared" / "data"))

UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
LYSOZYME = "KVFGRCELAAAMKRHGLDNYRGYSLGNWVCAAKFESNFNTQATNRNTDGSTDYGILQINSRWWCNDGRTPGSRNLCNIPCS"
CRAMBIN = "TTCCPSIVARSNFNVCRLPGTPEALCATYTGCIIIPGATCPGDYAN"


def make_ensemble(name: str, sequence: str, models: int = 10, seed: int = 0) -> Ensemble:
    rng = np.random.default_rng([seed, *name.encode()])
    length = len(sequence)
    ca = rng.normal(size=(models, length, 1, 3)).cumsum(1)
    xyz = torch.tensor(ca + rng.normal(size=(models, length, 3, 3)), dtype=torch.float32)
    bonded = torch.ones(length, dtype=torch.bool)
    bonded[-1] = False
    return Ensemble(
        name=name,
        coordinates=xyz,
        mask=torch.ones(models, length, dtype=torch.bool),
        sequence=sequence,
        chain_index=torch.zeros(length, dtype=torch.int64),
        chain_ids=("A",),
        residue_numbers=torch.arange(1, length + 1),
        insertion_codes=("",) * length,
        bonded=bonded,
        source=f"{name}.pdb",
        model_numbers=tuple(range(1, models + 1)),
    )


def mutate(sequence: str, share: float, seed: int) -> str:
    """Replace exactly this share of the letters by others."""
    rng = random.Random(seed)
    letters = list(sequence)
    for i in rng.sample(range(len(letters)), round(share * len(letters))):
        letters[i] = rng.choice([a for a in ALPHABET if a != letters[i]])
    return "".join(letters)


THREE = [
    make_ensemble("ubq", UBIQUITIN),
    make_ensemble("lyz", LYSOZYME, 20),
    make_ensemble("crn", CRAMBIN, 5),
]


def groups(families: dict[str, str]) -> set[frozenset[str]]:
    found: dict[str, set[str]] = {}
    for name, family in families.items():
        found.setdefault(family, set()).add(name)
    return {frozenset(names) for names in found.values()}


# -- families -----------------------------------------------------------------------------------


def test_identity_of_known_alignments() -> None:
    assert identity(UBIQUITIN, UBIQUITIN)[0] == 1
    # Free ends: a piece is identical to the whole over its own length.
    assert identity(UBIQUITIN, UBIQUITIN[20:60])[0] == 1
    # A deletion costs no identity of the shorter chain.
    assert identity(UBIQUITIN, UBIQUITIN[:30] + UBIQUITIN[36:])[0] == 1
    changed = mutate(UBIQUITIN, 0.25, 0)
    same = sum(a == b for a, b in zip(UBIQUITIN, changed, strict=True))
    assert identity(UBIQUITIN, changed)[0] == pytest.approx(same / len(UBIQUITIN), abs=0.04)
    assert identity("XXXX", "XXXX")[0] == 0
    assert identity("", UBIQUITIN) == (0.0, float("inf"))


@pytest.mark.parametrize("seed", range(3))
def test_half_identical_chains_are_relatives_and_shuffled_ones_are_not(seed: int) -> None:
    assert related(UBIQUITIN, mutate(UBIQUITIN, 0.5, seed))
    assert not related(UBIQUITIN, "".join(random.Random(seed).sample(UBIQUITIN, len(UBIQUITIN))))


def test_tags_do_not_make_relatives() -> None:
    assert strip_tags("MGHHHHHHSHACDE") == "ACDE"
    assert strip_tags("ACDELEHHHHHH") == "ACDE"
    assert strip_tags("ACDEHHHHHH") == "ACDE"
    assert strip_tags("MKHHTAHHA") == "MKHHTAHHA"
    first, second = "MGHHHHHHSH" + CRAMBIN[:12], "MGHHHHHHSH" + UBIQUITIN[:12]
    assert identity(first, second)[0] >= 0.3
    assert not related(first, second)


def test_short_peptides_do_not_tie_families_together() -> None:
    rng = random.Random(0)
    peptides = ["".join(rng.choices(ALPHABET, k=20)) for _ in range(20)]
    shares = [identity(p, LYSOZYME)[0] for p in peptides]
    assert max(shares) >= 0.3  # identity alone would call them relatives
    assert not any(related(p, LYSOZYME) for p in peptides)
    assert related(UBIQUITIN[:20], UBIQUITIN)


def test_families_are_connected_components_over_any_chain() -> None:
    half = len(UBIQUITIN) // 2
    chains = {
        "first": [UBIQUITIN[:half]],
        "second": [UBIQUITIN[half:]],
        "bridge": [CRAMBIN, UBIQUITIN],
        "other": [LYSOZYME],
    }
    assert groups(find_families(chains)) == {
        frozenset({"first", "second", "bridge"}),
        frozenset({"other"}),
    }
    named = [["other", "absent", "second"]]
    assert groups(find_families(chains, named)) == {frozenset(chains)}
    assert find_families({}) == {}


@pytest.mark.skipif(not (DATA / "ensembles").is_dir(), reason="needs the real ensembles")
def test_families_of_the_real_ensembles() -> None:
    """Identity finds these families; the five named ones and 1tap it cannot see."""
    found = [
        {"1d3z", "6qf8", "2k39_backbone", "1xqq_backbone", "2nr2_backbone", "ubq_hxprobe50",
         "rcsb104069"},
        {"2lc9", "2lcb"},
        {"1pqx", "2ltm", "2ltl"},
        {"2jr2", "2juw"},
        {"6pvr", "6pvt"},
    ]  # fmt: skip
    named = [["1adz", "1tap"], ["2sdf", "2jp1"], ["1iv6", "2m2e", "2l9r"], ["1ah1", "1gya"]]
    wanted = {name for group in [*found, *named] for name in group} | {"2m5o", "1l2y", "1brv"}
    chains = {}
    for path in sorted((DATA / "ensembles" / "nmr").iterdir()):
        if path.name.split(".")[0] in wanted:
            ensemble = load_ensemble(path)
            chains[ensemble.name] = chain_sequences(ensemble)
    assert set(chains) == wanted
    together = {group for group in groups(find_families(chains)) if len(group) > 1}
    assert together == {frozenset(group) for group in found}
    together = {group for group in groups(find_families(chains, named)) if len(group) > 1}
    assert together == {frozenset(group) for group in [*found, *named]}


# -- the split ----------------------------------------------------------------------------------


def test_models_are_divided_as_told_and_alike_for_everyone() -> None:
    split = EnsembleSplit.declare(THREE, held_out_fraction=0.2)
    for entry, heldout in zip(split.entries, (2, 4, 1), strict=True):
        assert len(entry.heldout) == heldout
        assert sorted(entry.train + entry.heldout) == list(range(len(entry.hashes)))
    # Neither the order nor the company of ensembles matters.
    assert EnsembleSplit.declare(THREE[::-1]).entry("lyz").train == split.entry("lyz").train
    assert EnsembleSplit.declare(THREE[1:2]).entry("lyz").train == split.entry("lyz").train
    others = {EnsembleSplit.declare(THREE, seed=s).entry("lyz").train for s in range(5)}
    assert len(others) > 1


def test_copies_of_a_model_stay_on_one_side() -> None:
    doubled = THREE[1].select_models([*range(20), *range(20)])
    entry = EnsembleSplit.declare([doubled], held_out_fraction=0.3).entries[0]
    assert len(entry.heldout) == 12
    assert {i % 20 for i in entry.heldout}.isdisjoint({i % 20 for i in entry.train})


def test_a_family_is_kept_out_whole() -> None:
    relative = make_ensemble("relative", mutate(UBIQUITIN, 0.5, 0))
    cousin = make_ensemble("cousin", "".join(random.Random(1).sample(LYSOZYME, 60)))
    split = EnsembleSplit.declare([*THREE, relative, cousin], ["ubq"], [["cousin", "ubq"]])
    assert [e.name for e in split.entries if e.unseen] == ["ubq", "relative", "cousin"]
    assert split.entry("ubq").heldout == tuple(range(10))


def through_checkpoint(split: EnsembleSplit) -> EnsembleSplit:
    file = io.BytesIO()
    torch.save(split.to_dict(), file)
    file.seek(0)
    return EnsembleSplit.from_dict(torch.load(file, weights_only=True))


def test_record_survives_a_checkpoint() -> None:
    split = EnsembleSplit.declare(THREE, ["crn"], [["ubq", "x"]])
    again = through_checkpoint(split)
    assert again == split
    assert again.digest == split.digest
    again.check_same(split)
    with pytest.raises(ValueError, match="version 7"):
        EnsembleSplit.from_dict(split.to_dict() | {"version": 7})
    with pytest.raises(ValueError, match="damaged"):
        EnsembleSplit.from_dict({"version": 1, "entries": [{}]})


@pytest.mark.parametrize(
    ("ensembles", "options", "message"),
    [
        (THREE[:2], {}, "without crn"),
        ([*THREE, make_ensemble("new", CRAMBIN[::-1])], {}, "with new"),
        ([*THREE[:2], make_ensemble("crn", CRAMBIN, 5, seed=1)], {}, "other models of crn"),
        (THREE, {"seed": 1}, "seed 1, not 0"),
        (THREE, {"held_out_fraction": 0.4}, "held_out_fraction 0.4, not 0.2"),
        (THREE[::-1], {}, "in another order"),
    ],
)
def test_another_split_is_refused_on_resume(
    ensembles: list[Ensemble], options: dict[str, float], message: str
) -> None:
    trained = EnsembleSplit.declare(THREE)
    now = EnsembleSplit.declare(ensembles, **options)  # type: ignore[arg-type]
    assert now.digest != trained.digest
    with pytest.raises(ValueError, match=message):
        trained.check_same(now)


def test_scoring_what_was_learned_from_is_refused_whatever_its_name() -> None:
    trained = EnsembleSplit.declare(THREE, ["crn"])
    trained.check_use(EnsembleSplit.declare([THREE[0]]))  # a part of the data, the same split
    with pytest.raises(ValueError, match="also a training model of"):
        trained.check_use(EnsembleSplit.declare(THREE, ["crn"], seed=3))
    copy = make_ensemble("lyz", LYSOZYME, 20)
    renamed = Ensemble(**{**vars(copy), "name": "renamed"})
    assert model_hashes(renamed) == model_hashes(THREE[1])
    with pytest.raises(ValueError, match=r"of renamed .*also a training model of lyz"):
        trained.check_use(EnsembleSplit.declare([renamed]))
    relative = make_ensemble("new", mutate(UBIQUITIN, 0.4, 2))
    with pytest.raises(ValueError, match=r"new is to be an unseen protein.*relative of ubq"):
        trained.check_use(EnsembleSplit.declare([relative, THREE[2]], ["new"]))
    named = EnsembleSplit.declare(THREE, families=[["lyz", "far"]])
    far = make_ensemble("far", CRAMBIN[::-1])
    with pytest.raises(ValueError, match="relative of lyz"):
        named.check_use(EnsembleSplit.declare([far, THREE[0]], ["far"]))


@pytest.mark.parametrize(
    ("ensembles", "options", "message"),
    [
        (THREE, {"held_out_fraction": 1.0}, r"held_out_fraction must lie in \[0, 1\)"),
        (THREE, {"families_held_out": ["nobody"]}, "names nobody, but the ensembles are crn, lyz"),
        (THREE, {"families_held_out": ["ubq", "lyz", "crn"]}, "no ensemble is left to train on"),
        ([], {}, "no ensemble is left to train on: there is none"),
        ([THREE[0], make_ensemble("ubq", CRAMBIN)], {}, "two ensembles are called 'ubq'"),
        ([make_ensemble("two", CRAMBIN, 2)], {}, "two has 2 distinct models"),
    ],
)
def test_bad_input_is_refused(
    ensembles: Iterable[Ensemble], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        EnsembleSplit.declare(list(ensembles), **options)  # type: ignore[arg-type]


def test_two_training_models_are_left_however_few_there_are() -> None:
    split = EnsembleSplit.declare([make_ensemble("few", CRAMBIN, 4)], held_out_fraction=0.9)
    assert (len(split.entries[0].train), len(split.entries[0].heldout)) == (2, 2)
