"""What moving one latent moves: nothing for no move, the same in any pose, local where it must."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from protein_cvae.data.batch import ProteinBatch
from protein_cvae.evaluation.latent_effects import (
    GLOBAL,
    LOCAL,
    EffectOptions,
    LatentEffects,
    effect_rows,
    latent_effects,
)
from protein_cvae.evaluation.plots.effects import effects_figure
from protein_cvae.geometry.constants import CA
from protein_cvae.model.latents import Latents
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.settings import NetworkSettings

LENGTH, CHAIN, SPATIAL = 26, 4, 5
ROUNDING = 1e-11  # Å; places in a batch differ by this much
OPTIONS = EffectOptions(residues=3, dimensions=2, sizes=(-1.0, 1.0, 2.0), draws=16)


def conformer(seed: int = 0) -> ProteinBatch:
    """A loose chain in float64, its own template."""
    rng = np.random.default_rng(seed)

    def unit(count: int) -> np.ndarray:
        x = rng.normal(size=(count, 3))
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    ca = (3.8 * unit(LENGTH) + 1.0).cumsum(0)
    atoms = np.stack([ca + 1.458 * unit(LENGTH), ca, ca + 1.525 * unit(LENGTH)], 1)
    x = torch.from_numpy(atoms)[None]
    there = torch.ones(1, LENGTH, dtype=torch.bool)
    bonded = there.clone()
    bonded[0, -1] = False
    return ProteinBatch(
        x, there, x, there,
        aatype=torch.from_numpy(rng.integers(20, size=(1, LENGTH))),
        embedding=torch.zeros(1, LENGTH, 0, dtype=torch.float64),
        sequence_mask=torch.tensor([True]),
        chain_index=torch.zeros(1, LENGTH, dtype=torch.int64),
        residue_index=torch.arange(LENGTH)[None],
        bonded=bonded,
        core=there,
        weight=torch.ones(1, dtype=torch.float64),
        protein=torch.tensor([0]), model=torch.tensor([0]), names=("chain",),
    )  # fmt: skip


@pytest.fixture(scope="module")
def network() -> ProteinCVAE:
    """One decoder layer: a residue is heard by its neighbours in the start and by no other."""
    torch.manual_seed(0)
    settings = NetworkSettings(
        width=32, layers=1, condition_layers=1, heads=4, feed_forward=32, d_global=5,
        hidden=16, decoder_layers=1, chain_neighbors=CHAIN, spatial_neighbors=SPATIAL,
    )  # fmt: skip
    network = ProteinCVAE(settings).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():  # layers that start at 0 would hide what they do
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += 0.1 * noise
    return network


@torch.no_grad()
def encode(network: ProteinCVAE, item: ProteinBatch) -> Latents:
    condition = network.condition(item)
    return network.posterior_mean(condition, network.encode(item, condition))


def means(network: ProteinCVAE, item: ProteinBatch, count: int = 12) -> Latents:
    """Latents that vary more in later dimensions, in no particular way else."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for field in dataclasses.fields(Latents):
        z = getattr(encode(network, item), field.name)
        noise = torch.randn(count, *z.shape[1:], generator=generator, dtype=z.dtype)
        found.append(z + noise * 3.0 ** torch.arange(z.shape[-1]))
    return Latents(*found)


def effects_of(
    network: ProteinCVAE, item: ProteinBatch, options: EffectOptions = OPTIONS
) -> LatentEffects:
    generator = torch.Generator().manual_seed(3)
    return latent_effects(network, item, means(network, item), generator, options)


@pytest.fixture(scope="module")
def effects(network: ProteinCVAE) -> LatentEffects:
    network.train()
    found = effects_of(network, conformer())
    assert network.training  # its mode is restored
    return found


def test_every_latent_moves_in_the_dimensions_that_vary_most(effects: LatentEffects):
    dimensions = {
        latent: {move.dimension for move in effects.moves if move.latent == latent}
        for latent in (GLOBAL, *LOCAL)
    }
    assert dimensions == {
        GLOBAL: {3, 4}, "shift": {0, 1, 2}, "turn": {0, 1, 2},
    }  # fmt: skip
    places = {move.residue for move in effects.moves if move.latent in LOCAL}
    assert places == {4, 13, 21}  # the middles of thirds
    assert len(effects.moves) == 3 * (2 + 3 * (3 + 3))


def test_no_move_changes_nothing_and_a_move_does(network: ProteinCVAE, effects: LatentEffects):
    still = effects_of(network, conformer(), dataclasses.replace(OPTIONS, sizes=(0.0,)))
    assert float(still.displacement().max()) < 1e-9
    assert float(still.distance_change(0).abs().max()) < 1e-12
    assert all(row["still"] == 1 for row in effect_rows(still))
    assert (effects.displacement().amax(1) > 1e-4).all()


@pytest.mark.parametrize("unit", ["prior", "posterior"])
def test_effects_do_not_depend_on_any_pose(network: ProteinCVAE, unit: str):
    options = dataclasses.replace(OPTIONS, units=(unit,))
    item = conformer()
    turns = torch.from_numpy(Rotation.random(2, random_state=4).as_matrix())
    turned = dataclasses.replace(
        item,
        coordinates=item.coordinates @ turns[0].T + 7.0,
        template=item.template @ turns[1].T - 30.0,
    )
    here, there = effects_of(network, item, options), effects_of(network, turned, options)
    torch.testing.assert_close(here.displacement(), there.displacement(), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(
        here.distance_change(5), there.distance_change(5), rtol=1e-7, atol=1e-9
    )
    # In the pose of the template.
    torch.testing.assert_close(there.base, here.base @ turns[1].T - 30.0, rtol=0, atol=1e-8)


def reached(effects: LatentEffects, move: int) -> torch.Tensor:
    """(L,) bool, residues that a move changes at all, in the common pose."""
    return (effects.moved[move] - effects.base).abs().flatten(1).amax(1) > ROUNDING


def test_a_local_move_leaves_all_residues_that_do_not_hear_it(
    network: ProteinCVAE, effects: LatentEffects
):
    item = conformer()
    start = item.coordinates[0, :, CA].numpy()

    def heard(ca: np.ndarray) -> np.ndarray:
        """[j, i]: j takes messages from i; by brute force."""
        away = cdist(ca, ca)
        np.fill_diagonal(away, np.inf)
        near = np.zeros(away.shape, dtype=bool)
        np.put_along_axis(near, away.argsort(1)[:, :SPATIAL], True, axis=1)
        gap = np.abs(np.subtract.outer(np.arange(LENGTH), np.arange(LENGTH)))
        return near | (gap <= CHAIN // 2)

    # The conformer is its template, so the start is at its CA, whatever turn is.
    graph = heard(start)
    for m, move in enumerate(effects.moves):
        if move.latent != "turn":
            continue
        touched = graph[:, move.residue].copy()
        touched[move.residue] = True
        changed = reached(effects, m).numpy()
        np.testing.assert_array_equal(changed, touched, err_msg=str(move))
        apart = effects.distance_change(m)[~touched][:, ~touched]
        assert apart.numel() > 20
        assert float(apart.abs().max()) < ROUNDING


def test_a_shift_moves_its_residue_most_and_all_by_what_z_global_holds(network: ProteinCVAE):
    """A shift has a part along the softest modes, which z_local does not hold."""
    options = EffectOptions(residues=1, dimensions=1, sizes=(0.5,), draws=8)
    effects = effects_of(network, conformer(), options)
    (place,) = {move.residue for move in effects.moves if move.residue is not None}
    assert len(effects.chosen("shift", "prior")) == 3
    for m in effects.chosen("shift", "prior"):
        gap = (effects.moved[m] - effects.base)[:, CA].norm(dim=-1)
        assert int(gap.argmax()) == place
        assert float(gap.median()) < 0.25 * float(gap[place])
        # Chain neighbours always hear it.
        assert reached(effects, m)[place - CHAIN // 2 : place + CHAIN // 2 + 1].all()


def test_figure_shows_displacements_and_the_largest_distance_change(effects: LatentEffects):
    figure = effects_figure("x", effects)
    panels = [axis for axis in figure.axes if axis.get_xlabel() == "residue"]
    assert len(panels) == 2 * 3
    d = effects.displacement().numpy()
    shift = panels[1]
    chosen = [m for m in effects.chosen("shift", "prior", 2.0) if effects.moves[m].residue == 4]
    assert len(chosen) == 3
    np.testing.assert_allclose(shift.lines[0].get_ydata(), np.sqrt((d[chosen] ** 2).mean(0)))
    image = panels[3 + 1].images[0]
    every = [m for m in effects.chosen("shift", "prior") if effects.moves[m].size == 2]
    strongest = max(every, key=lambda m: (d[m] ** 2).sum())
    np.testing.assert_allclose(image.get_array(), effects.distance_change(strongest).numpy())
    with pytest.raises(ValueError, match="posterior"):
        effects_figure("x", effects, "posterior")


def test_what_cannot_be_moved_is_refused(network: ProteinCVAE):
    item = conformer()
    found, generator = means(network, item), torch.Generator()
    absent = dataclasses.replace(item, template_mask=torch.zeros_like(item.mask))
    with pytest.raises(ValueError, match=f"item: .* {LENGTH} residues missing"):
        latent_effects(network, absent, found, generator)
    one = Latents(*(getattr(found, f.name)[:1] for f in dataclasses.fields(Latents)))
    with pytest.raises(ValueError, match="means: expected at least 2"):
        latent_effects(network, item, one, generator)
    for options, name in (
        ({"residues": 0}, "residues"), ({"draws": 1}, "draws"), ({"units": ("sd",)}, "units"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            EffectOptions(**options)
