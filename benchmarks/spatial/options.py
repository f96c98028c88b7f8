"""What the reference design studied, as conditions of the table: one option each beside its base.

All are of ``network.form: states`` with a gate and 100 candidates.  ``option: base`` is that
network as it is; every other differs from it by what its name says and nothing else.  Lengths and
rates of every training stand here, too.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from spatial_ipa.model.losses import LossWeights
from spatial_ipa.model.network import Form, NetworkSettings
from spatial_ipa.model.pair import GraphMode
from spatial_ipa.model.targets import GateWalk
from spatial_ipa.training.settings import Schedule


@dataclass(frozen=True)
class Option:
    """Settings of a training that differ from the base."""

    network: NetworkSettings = NetworkSettings(form="states")
    weights: LossWeights = LossWeights()
    gate_walk: GateWalk = "one_step"
    graph: GraphMode = "gated"


def _network(**changed: object) -> Option:
    return Option(NetworkSettings(form="states", **changed))  # type: ignore[arg-type]


OPTIONS: dict[str, Option] = {
    "option: base": Option(),
    "option: no q.k": _network(qk=False),
    "option: frames": _network(block="frames"),
    "option: unshared, 3 recycles": _network(block="unshared", recycles=3),
    "option: 4 point offsets": _network(point_offsets=4),
    "option: pair bias": _network(pair_bias=True),
    "option: gate per head": _network(gate_heads="own"),
    "option: gate of two steps": Option(gate_walk="two_steps"),
    "option: gate of one and two steps": Option(gate_walk="mixed"),
    "option: gate weight 0": Option(weights=LossWeights(gate=0.0)),
    "option: stress weight 0": Option(weights=LossWeights(stress=0.0)),
    "option: no gate": Option(graph="candidates"),
    "option: gate weight 0.2": Option(weights=LossWeights(gate=0.2)),
    "option: stress weight 0.3": Option(weights=LossWeights(stress=0.3)),
    "option: 3 recycles": _network(recycles=3),
}
"""By name of the condition."""

_SCHEDULES: dict[Form, Schedule] = {
    "points": Schedule(gate_steps=100, ramp_epochs=3),
    "states": Schedule(lr=5e-4, lr_final=1e-5),
}
# Rates of 0 leave the weights as they are drawn, while everything else is set up as in a training.
NO_STEPS = Schedule(gate_steps=0, lr=0.0, lr_final=0.0)


def schedule(form: Form, args: argparse.Namespace) -> Schedule:
    """Lengths and rates for a form, with what the command line sets."""
    given = {"gate_steps": args.gate_steps, "lr": args.lr}
    return replace(_SCHEDULES[form], **{k: v for k, v in given.items() if v is not None})
