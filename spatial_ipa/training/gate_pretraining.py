"""Pretraining of the edge gate alone."""

from __future__ import annotations

import torch
from tqdm.auto import tqdm

from spatial_ipa.model.gate import EdgeGate
from spatial_ipa.model.losses import loss_gate
from spatial_ipa.model.minisets import MinisetDataset

# Minisets of gate pretraining are numbered from here, out of reach of any epoch of joint training.
_FIRST_DRAW = 2**40


def pretrain_gate(
    gate: EdgeGate,
    dataset: MinisetDataset,
    steps: int,
    lr: float,
    weight_decay: float,
    device: torch.device | None = None,
) -> list[float]:
    """Train the gate on KL(T_ref || row-softmax of its logits), one miniset a step.

    The draws are numbered, so every process that calls it with the same gate on the same device
    gets the same result, on a GPU up to the rounding of its scattered sums.

    Args:
        gate: trained in place.
        dataset: augmented training minisets.
        steps: AdamW steps with cosine decay to 0.
        lr: initial rate.
        weight_decay: of AdamW.
        device: where it is trained, to be brought back afterwards: Lightning moves a module to its
            device later only.  None for where it is.

    Returns:
        The KL of each step, in nats.
    """
    home = next(gate.parameters()).device
    device = home if device is None else device
    gate.to(device)
    optimizer = torch.optim.AdamW(gate.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    history = []
    # disable=None: no bar where the output is not a terminal.
    bar = tqdm(range(steps), desc="gate pretraining", unit="step", mininterval=1, disable=None)
    for step in bar:
        item = dataset[_FIRST_DRAW + step].to(device)
        logit = gate(item.h, item.candidates)
        loss = loss_gate(logit, item.candidates, item.wanted, item.target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        history.append(float(loss.detach()))
        bar.set_postfix(kl=f"{history[-1]:.3f}", refresh=False)
    gate.to(home)
    return history
