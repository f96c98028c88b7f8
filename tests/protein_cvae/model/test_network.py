"""The network's symmetries: pose, mirror image, padding, batch neighbours, what is withheld."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from protein_batches import (
    REFLECTION,
    TOLERANCE,
    conformer,
    moved,
    pose,
    small_model,
)

from protein_cvae.data.batch import ProteinBatch, collate
from protein_cvae.model.latents import Latents
from protein_cvae.model.network import ProteinCVAE


def encoded(model: ProteinCVAE, batch: ProteinBatch) -> list[torch.Tensor]:
    with torch.no_grad():
        q = model.encode(batch, model.condition(batch))
    return [
        q.z_global.mean, q.z_global.log_var, q.shift, q.shift_log_var,
        q.turn.mean, q.turn.log_var, q.detail.mean, q.detail.log_var,
    ]  # fmt: skip


def latents(model: ProteinCVAE, batch: ProteinBatch, seed: int = 5) -> Latents:
    generator = torch.Generator().manual_seed(seed)
    b, length = batch.mask.shape

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Latents(
        draw(b, model.d_global),
        draw(b, length, 3),
        draw(b, length, 3),
        draw(b, length, model.d_detail),
    )


@pytest.mark.parametrize("templated", [True, False])
def test_latents_do_not_depend_on_any_pose(templated):
    model, batch = small_model(), conformer(24, 0, templated=templated)
    other = moved(batch, conformer_pose=1, template_pose=2)
    for a, b in zip(encoded(model, batch), encoded(model, other), strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


def test_a_mirror_image_has_other_latents():
    model, batch = small_model(), conformer(24, 0)
    alone = moved(batch, mirror=True)
    turned = dataclasses.replace(alone, template=batch.template)
    for other in (alone, turned):
        for a, b in zip(encoded(model, batch)[::2], encoded(model, other)[::2], strict=True):
            assert (a - b).abs().max() > 1e-3


def test_decoder_turns_and_moves_with_the_template_and_ignores_the_conformer():
    model, batch = small_model(), conformer(24, 0)
    z = latents(model, batch)
    turn, shift = pose(2)
    with torch.no_grad():
        x = model.decode(batch, model.condition(batch), z)
        other = moved(batch, conformer_pose=1, template_pose=2)
        y = model.decode(other, model.condition(other), z)
    torch.testing.assert_close(y.coordinates, x.coordinates @ turn.mT + shift, **TOLERANCE)
    torch.testing.assert_close(y.logits, x.logits, **TOLERANCE)


def test_decoder_tells_a_mirrored_template_apart():
    model, batch = small_model(), conformer(24, 0)
    z = latents(model, batch)
    mirrored = moved(batch, mirror=True)
    with torch.no_grad():
        x = model.decode(batch, model.condition(batch), z).coordinates
        y = model.decode(mirrored, model.condition(mirrored), z).coordinates
    assert (y - x @ REFLECTION).abs().max() > 1e-2


def test_decoded_residues_are_ideal_and_of_l_hand():
    model, batch = small_model(), conformer(24, 0)
    with torch.no_grad():
        x = model.decode(batch, model.condition(batch), latents(model, batch)).coordinates[0]
    n, ca, c = x.unbind(1)
    torch.testing.assert_close((n - ca).norm(dim=1), torch.full((24,), 1.458).double())
    torch.testing.assert_close((c - ca).norm(dim=1), torch.full((24,), 1.525).double())


@pytest.mark.parametrize("templated", [True, False])
def test_padding_and_neighbours_in_the_batch_change_nothing(templated):
    model = small_model()
    items = [conformer(18, 0, templated=templated), conformer(30, 1), conformer(25, 2)]
    joined = collate([dataclasses.replace(i, weight=i.weight.float()) for i in items])
    alone = items[0]
    z = latents(model, joined)
    first = Latents(z.z_global[:1], z.shift[:1, :18], z.turn[:1, :18], z.detail[:1, :18])
    with torch.no_grad():
        c_joined, c_alone = model.condition(joined), model.condition(alone)
        q_joined, q_alone = model.encode(joined, c_joined), model.encode(alone, c_alone)
        x_joined = model.decode(joined, c_joined, z)
        x_alone = model.decode(alone, c_alone, first)
        prior_joined = model.prior_local(c_joined, z.z_global, z.shift)
        prior_alone = model.prior_local(c_alone, first.z_global, first.shift)
        mean_joined = model.prior_shift(c_joined, z.z_global)
        mean_alone = model.prior_shift(c_alone, first.z_global)
        kl_joined = c_joined.network.kl(q_joined.shift, q_joined.shift_log_var, mean_joined)
        kl_alone = c_alone.network.kl(q_alone.shift, q_alone.shift_log_var, mean_alone)
    pairs = [
        (q_joined.z_global.mean[:1], q_alone.z_global.mean),
        (q_joined.shift[:1, :18], q_alone.shift),
        (q_joined.detail.mean[:1, :18], q_alone.detail.mean),
        (q_joined.turn.mean[:1, :18], q_alone.turn.mean),
        (mean_joined[:1, :18], mean_alone),
        (prior_joined.turn.mean[:1, :18], prior_alone.turn.mean),
        (prior_joined.detail.mean[:1, :18], prior_alone.detail.mean),
        (x_joined.coordinates[:1, :18], x_alone.coordinates),
        (x_joined.logits[:1, :18], x_alone.logits),
        (kl_joined[:1], kl_alone),
    ]
    for a, b in pairs:
        torch.testing.assert_close(a, b, **TOLERANCE)


def test_withheld_sequence_and_template_are_not_used():
    model = small_model()
    batch = conformer(24, 0, templated=False, sequence=False)
    other = dataclasses.replace(
        batch,
        aatype=(batch.aatype + 3) % 20,
        template=conformer(24, 9).template,
        embedding=batch.embedding,
    )
    for a, b in zip(encoded(model, batch), encoded(model, other), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    condition = model.condition(batch)
    kl = condition.network.kl(
        torch.zeros(1, 24, 3).double(), torch.zeros(1, 24).double(), torch.zeros(1, 24, 3).double()
    )
    assert kl.item() == 0.0


def test_missing_residues_neither_enter_nor_poison():
    model, batch = small_model(), conformer(24, 0)
    mask = batch.mask.clone()
    mask[0, 10:12] = False
    holed = dataclasses.replace(batch, mask=mask)
    junk = dataclasses.replace(
        holed, coordinates=torch.where(mask[..., None, None], batch.coordinates, 1e3)
    )
    present = mask[0]
    for a, b in zip(encoded(model, holed)[2:], encoded(model, junk)[2:], strict=True):
        torch.testing.assert_close(a[0][present], b[0][present], **TOLERANCE)
