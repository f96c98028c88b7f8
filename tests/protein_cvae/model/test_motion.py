"""How a conformer has moved from a template."""

from __future__ import annotations

import torch
from protein_batches import (
    conformer,
    pose,
)

from protein_cvae.geometry.frames import residue_frames, rotation_from_axis_angle
from protein_cvae.model.motion import axis_angle, displacement


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
