"""The model's symmetries: pose, mirror image, padding, batch neighbours, what is withheld."""

import dataclasses

import pytest
import torch

from protein_cvae.data.batch import ProteinBatch, collate
from protein_cvae.geometry.frames import residue_frames, rotation_from_axis_angle
from protein_cvae.model.latents import Latents
from protein_cvae.model.losses import (
    LossWeights,
    fit_terms,
    geometry_terms,
    weighted,
)
from protein_cvae.model.motion import axis_angle, displacement
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.model.states import Decoded
from protein_cvae.module import ProteinCVAEModule

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
SMALL = {
    "width": 32, "layers": 2, "condition_layers": 1, "heads": 4, "feed_forward": 64,
    "dropout": 0.0, "d_global": 8, "d_local": 14, "hidden": 16, "decoder_layers": 2,
    "chain_neighbors": 4, "spatial_neighbors": 6,
}  # fmt: skip
REFLECTION = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))


def backbone(length: int, generator: torch.Generator) -> torch.Tensor:
    """(L, 3, 3) a loose chain with real bond lengths, float64."""

    def unit(count: int) -> torch.Tensor:
        x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
        return x / x.norm(dim=1, keepdim=True)

    ca = (3.8 * unit(length) + 1.0).cumsum(0)
    return torch.stack([ca + 1.458 * unit(length), ca, ca + 1.525 * unit(length)], dim=1)


def conformer(
    length: int, seed: int, *, templated: bool = True, sequence: bool = True
) -> ProteinBatch:
    generator = torch.Generator().manual_seed(seed)
    x = backbone(length, generator)
    template = x + 0.4 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    bonded = torch.ones(1, length, dtype=torch.bool)
    bonded[0, -1] = False
    one = torch.ones(1, length, dtype=torch.bool)
    return ProteinBatch(
        coordinates=x[None],
        mask=one,
        template=template[None],
        template_mask=one & templated,
        aatype=torch.randint(20, (1, length), generator=generator),
        embedding=torch.zeros(1, length, 0, dtype=torch.float64),
        sequence_mask=torch.tensor([sequence]),
        chain_index=torch.zeros(1, length, dtype=torch.int64),
        residue_index=torch.arange(length)[None],
        bonded=bonded,
        core=one,
        weight=torch.ones(1, dtype=torch.float64),
        protein=torch.tensor([seed]),
        model=torch.tensor([0]),
        names=(f"chain{seed}",),
    )


def small_model(**options: object) -> ProteinCVAE:
    torch.manual_seed(0)
    model = ProteinCVAE(NetworkSettings(**(SMALL | options))).double().eval()
    # Layers that start at 0 would hide what they do.
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(
            parameter.shape, generator=generator, dtype=torch.float64
        )
    return model


def pose(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    turn = rotation_from_axis_angle(torch.randn(3, generator=generator, dtype=torch.float64))
    return turn, 20 * torch.randn(3, generator=generator, dtype=torch.float64)


def moved(
    batch: ProteinBatch,
    *,
    conformer_pose: int | None = None,
    template_pose: int | None = None,
    mirror: bool = False,
) -> ProteinBatch:
    changes = {}
    for field, seed in (("coordinates", conformer_pose), ("template", template_pose)):
        x = getattr(batch, field)
        if mirror:
            x = x @ REFLECTION
        if seed is not None:
            turn, shift = pose(seed)
            x = x @ turn.mT + shift
        changes[field] = x
    return dataclasses.replace(batch, **changes)


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


def test_losses_ignore_padding():
    weights = LossWeights()
    items = [conformer(18, 0), conformer(30, 1)]
    joined = collate([dataclasses.replace(i, weight=i.weight.float()) for i in items])
    generator = torch.Generator().manual_seed(3)
    x = joined.coordinates + 0.3 * torch.randn(
        joined.coordinates.shape, generator=generator, dtype=torch.float64
    )
    logits = torch.randn(2, 30, 20, generator=generator, dtype=torch.float64)

    def score(x, logits, batch):
        fit = fit_terms(Decoded(x, logits), batch, batch.mask, weights.tail)
        shape = geometry_terms(Decoded(x, logits), batch, batch.mask)
        return weighted(weights, fit, 0.5) + weighted(weights, shape, 0.5)

    together = score(x, logits, joined)
    alone = score(x[:1, :18], logits[:1, :18], items[0])
    torch.testing.assert_close(together[:1], alone, **TOLERANCE)


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


class Training(ProteinCVAEModule):
    """A module in the middle of a training, without a trainer."""

    global_step = 7

    def progress(self) -> float:
        return 0.5

    def kl_weight(self) -> float:
        return 0.7

    def log(self, *args: object, **options: object) -> None:
        pass

    def log_dict(self, *args: object, **options: object) -> None:
        pass


@pytest.mark.parametrize("design", ["direct", "shared", "separate"])
def test_a_training_step_gives_every_parameter_a_finite_gradient(design):
    """Also what DDP asks for: no parameter without a gradient."""
    module = Training(NetworkSettings(sequence_design=design, **SMALL)).double()
    items = [conformer(18, 0), conformer(24, 1, templated=False), conformer(21, 2, sequence=False)]
    batch = collate([dataclasses.replace(i, weight=i.weight.float()) for i in items])
    module.training_step(batch, 0).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_a_training_step_repeats_and_its_noise_ignores_the_neighbours():
    module = Training(NetworkSettings(**SMALL)).double()
    items = [conformer(18, 0), conformer(24, 1)]
    batch = collate([dataclasses.replace(i, weight=i.weight.float()) for i in items])
    assert torch.equal(module.training_step(batch, 0), module.training_step(batch, 0))
    together, alone = (module.model.noise(x, 0, 3, 0) for x in (batch, items[0]))
    assert torch.equal(together.z_global[:1], alone.z_global)
    assert torch.equal(together.detail[:1, :18], alone.detail)
    assert not torch.equal(module.model.noise(batch, 0, 4, 0).shift, together.shift)


def test_noise_is_drawn_on_the_device_of_the_batch():
    """On the one without storage, which stands for a GPU: a copy to the CPU would raise."""
    module = Training(NetworkSettings(**SMALL))
    batch = conformer(18, 0)
    noise = module.model.noise(batch.to("meta"), 0, 3, 0)
    assert {getattr(noise, f.name).device.type for f in dataclasses.fields(noise)} == {"meta"}


@pytest.mark.parametrize("design", ["direct", "separate"])
def test_an_item_of_weight_zero_counts_for_nothing(design):
    """Samplers fill batches up with them; a score that saw them would depend on the processes."""
    module = Training(NetworkSettings(sequence_design=design, **SMALL)).double()
    items = [conformer(18, 0), conformer(24, 1)]
    filler = dataclasses.replace(conformer(21, 2), weight=torch.zeros(1, dtype=torch.float64))
    module.eval()
    with torch.no_grad():
        without = module.scores(collate(items)).values
        filled = module.scores(collate([*items, filler])).values
    assert {"loss", "kl_global", "kl_shift", "kl_turn", "kl_detail"} <= set(without)
    for name, value in without.items():
        torch.testing.assert_close(filled[name], value, msg=lambda m, n=name: f"{n}: {m}")


def test_displacement_of_a_moved_copy_is_zero_and_a_moving_tail_does_not_drag_the_rest():
    batch = conformer(40, 0)
    template = residue_frames(batch.template, batch.mask)
    turn, shift = pose(4)
    copy = residue_frames(batch.template @ turn.mT + shift, batch.mask)
    gap, turned = displacement(*copy, *template, batch.mask)
    torch.testing.assert_close(gap, torch.zeros_like(gap), rtol=0, atol=1e-9)
    torch.testing.assert_close(turned, torch.zeros_like(turned), rtol=0, atol=1e-7)
    tail = batch.template.clone()
    tail[:, 32:] += 15.0
    gap, _ = displacement(*residue_frames(tail, batch.mask), *template, batch.mask)
    assert gap[:, :30].norm(dim=-1).max() < 1.5
    assert gap[:, 33:].norm(dim=-1).min() > 20.0


def test_axis_angle_inverts_the_exponential_at_every_angle():
    generator = torch.Generator().manual_seed(0)
    axis = torch.nn.functional.normalize(
        torch.randn(400, 3, generator=generator, dtype=torch.float64), dim=1
    )
    angle = torch.linspace(0, torch.pi, 400, dtype=torch.float64)[:, None]
    found = axis_angle(rotation_from_axis_angle(angle * axis))
    torch.testing.assert_close(found[:-1], (angle * axis)[:-1], rtol=1e-7, atol=1e-7)
    # Half a turn has two axes.
    torch.testing.assert_close(found[-1].abs(), torch.pi * axis[-1].abs(), rtol=1e-7, atol=1e-7)


def test_shift_and_turn_lead_from_the_template_to_the_conformer():
    batch = conformer(20, 0)
    template = residue_frames(batch.template, batch.mask)
    there = residue_frames(batch.coordinates, batch.mask)
    shift, turn = displacement(*there, *template, batch.mask)
    origin = template[1] + (template[0] @ shift[..., None])[..., 0]
    rotation = template[0] @ rotation_from_axis_angle(turn)

    # Equal up to one rigid motion: the relative frames of all pairs agree.
    def relative(rotation, origin):
        gap = origin[0, None] - origin[0, :, None]
        return (gap[:, :, None] @ rotation[0, :, None])[:, :, 0]

    torch.testing.assert_close(relative(rotation, origin), relative(*there), rtol=1e-7, atol=1e-7)
