"""The modes of a template against the dense formula of its elastic network."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from protein_batches import SMALL
from protein_modes import Chains, chains, dense_precision

from protein_cvae.model.elastic import NormalModes, normal_modes
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.settings import NetworkSettings


def test_modes_are_the_eigenvectors_of_the_formula():
    # The constant 1e-6 that holds a single residue is not in the formula.
    given = chains().upright()
    modes = given.modes()
    for item in range(2):
        keep, rows = given.mask[item], given.rows(item)
        wanted = dense_precision(given.origin[item, keep].numpy(), given.chain[item, keep].numpy())
        eigenvalues = np.linalg.eigvalsh(wanted)
        count = int(rows.sum())
        variance = modes.variance[item, :count].numpy()
        np.testing.assert_allclose(variance, 1 / eigenvalues, rtol=1e-5)
        vectors = modes.vectors[item, rows][:, :count].numpy()
        stiffest = eigenvalues[-1]
        np.testing.assert_allclose(wanted @ vectors, vectors / variance, atol=1e-6 * stiffest)
        inverse = np.linalg.inv(wanted)
        mean = np.diag(inverse).reshape(-1, 3).mean(1)
        np.testing.assert_allclose(modes.residue_variance()[item, keep].numpy(), mean, rtol=1e-5)


def test_modes_are_orthonormal_softest_first_and_of_one_sign():
    modes = chains().modes()
    each = torch.eye(36, dtype=torch.float64).expand(2, 36, 36)
    torch.testing.assert_close(modes.vectors.mT @ modes.vectors, each)
    assert bool((modes.variance.diff(dim=1) <= 0).all())
    assert bool((modes.vectors.pow(3).sum(1) >= 0).all())


@pytest.mark.parametrize("angles", [[0.3, -1.1, 0.7], [2.5, 1.5, -0.4], [-3.0, 0.1, 0.2]])
def test_modes_do_not_depend_on_the_pose(angles: list[float]):
    given = chains()
    here, there = given.modes(), given.turned(angles).modes()
    shift = given.draw(2, 12, 3)
    for item in range(2):
        # Modes of absent residues are alike, so any mixture of them is as good.
        count = int(given.rows(item).sum())
        for a, b in (
            (here.variance, there.variance),
            (here.vectors.mT, there.vectors.mT),
            (here.coefficients(shift), there.coefficients(shift)),
        ):
            torch.testing.assert_close(a[item, :count], b[item, :count], rtol=1e-7, atol=1e-7)


def test_frames_only_change_the_coordinates():
    given = chains()
    local, world = given.modes(), given.upright().modes()
    shift = given.draw(2, 12, 3)
    turned = (given.frames @ shift[..., None])[..., 0]
    torch.testing.assert_close(local.variance, world.variance, rtol=1e-7, atol=1e-12)
    # The rule of the signs is of the frames.
    a, b = local.coefficients(shift).abs(), world.coefficients(turned).abs()
    for item in range(2):
        count = int(given.rows(item).sum())
        torch.testing.assert_close(a[item, :count], b[item, :count], rtol=1e-7, atol=1e-7)


def test_coefficients_and_shifts_are_inverse():
    given = chains()
    modes = given.modes()
    shift = given.draw(2, 12, 3)
    found = modes.shift(modes.coefficients(shift))
    wanted = torch.where(given.mask[..., None], shift, torch.zeros_like(shift))
    torch.testing.assert_close(found, wanted)


def holed(given: Chains) -> Chains:
    """Without two residues in the middle of the first item."""
    mask = given.mask.clone()
    mask[0, 3:5] = False
    return dataclasses.replace(given, mask=mask)


@pytest.mark.parametrize("given", [chains(), holed(chains())], ids=["end", "middle"])
def test_absent_residues_have_no_variance_and_mix_with_nothing(given: Chains):
    rows = given.rows(0)
    modes, count = given.modes(), int(rows.sum())
    assert bool((modes.variance[0, :count] > 0).all())
    assert float(modes.variance[0, count:].abs().sum()) == 0.0
    assert float(modes.vectors[0, ~rows][:, :count].abs().max()) < 1e-12
    assert float(modes.vectors[0, rows][:, count:].abs().max()) < 1e-12
    junk = torch.full((2, 12, 3), 1e6, dtype=torch.float64)
    junk[given.mask] = 0.0
    assert float(modes.coefficients(junk).abs().max()) == 0.0
    drawn = modes.shift(modes.variance.sqrt() * given.draw(2, 36))
    assert float(drawn[~given.mask].abs().max()) < 1e-12
    keep = given.mask[0]
    alone = normal_modes(
        given.frames[:1, keep], given.origin[:1, keep], given.mask[:1, keep],
        given.place[:1, keep], given.chain[:1, keep],
    )  # fmt: skip
    torch.testing.assert_close(alone.variance[0], modes.variance[0, :count], rtol=1e-8, atol=0)
    found = modes.vectors[0, rows][:, :count]
    torch.testing.assert_close(alone.vectors[0], found, rtol=1e-7, atol=1e-7)


def test_tails_are_softer_than_the_core():
    # A compact cube of residues with a straight tail.
    grid = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 3) * 3.8
    tail = torch.tensor([[3.8 * (3 + i), 7.6, 7.6] for i in range(5)], dtype=torch.float64)
    origin = torch.cat([grid, tail])[None]
    n = origin.shape[1]
    frames = torch.eye(3, dtype=torch.float64).expand(1, n, 3, 3)
    mask = torch.ones(1, n, dtype=torch.bool)
    place, chain = torch.arange(n)[None], torch.zeros(1, n, dtype=torch.int64)
    variance = normal_modes(frames, origin, mask, place, chain).residue_variance()[0]
    assert bool((variance[28:] > variance[27:-1]).all())
    assert float(variance[-1]) > 10 * float(variance[:27].median())


@pytest.mark.parametrize("present", [0, 1, 2])
def test_hardly_any_residue_gives_finite_modes(present: int):
    given = chains(items=1)
    mask = torch.zeros_like(given.mask)
    mask[0, :present] = True
    modes = dataclasses.replace(given, mask=mask).modes()
    # One residue alone has nothing to move against.
    seen = present if present > 1 else 0
    assert int(modes.mask.sum()) == seen
    assert int((modes.variance > 0).sum()) == 3 * seen
    for x in (modes.variance, modes.vectors, modes.residue_variance()):
        assert bool(x.isfinite().all())
    coefficients = modes.coefficients(given.draw(1, 12, 3))
    assert (float(coefficients.abs().sum()) > 0) == (seen > 0)


def test_a_residue_far_away_is_finite_in_single_precision():
    given = chains(items=1)
    given.origin[0, -1] += 300.0
    single = dataclasses.replace(given, frames=given.frames.float(), origin=given.origin.float())
    modes = single.modes()
    assert modes.variance.dtype == modes.vectors.dtype == torch.float32
    assert bool(modes.variance.isfinite().all())
    assert bool((modes.variance > 0).all())


def test_expanded_modes_are_copies_without_copying():
    given = chains(items=1)
    one = given.modes()
    many = one.expand(3)
    copied = NormalModes(*(getattr(one, f.name).repeat_interleave(3, 0) for f in _fields()))
    shift = given.draw(3, 12, 3)
    assert many.vectors.data_ptr() == one.vectors.data_ptr()
    torch.testing.assert_close(many.coefficients(shift), copied.coefficients(shift))
    torch.testing.assert_close(many.shift(shift.flatten(1)), copied.shift(shift.flatten(1)))
    torch.testing.assert_close(many.residue_variance(), copied.residue_variance())


def _fields() -> tuple[dataclasses.Field[object], ...]:
    return dataclasses.fields(NormalModes)


@pytest.mark.parametrize(
    "name",
    ["elastic.isotropy", "shift_prior.0.weight", "shift_log_var.bias", "detail_head.mean.weight"],
)
def test_checkpoints_with_other_latents_are_refused(name: str):
    model = ProteinCVAE(NetworkSettings(**SMALL))
    state = model.state_dict() | {name: torch.zeros(())}
    with pytest.raises(ValueError, match=rf"{name.replace('.', chr(92) + '.')} .* train the model"):
        model.load_state_dict(state)
