"""Network and gate of one model, as its settings say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

from common.errors import UserError
from spatial_ipa.model.frames import IPAFramesModel
from spatial_ipa.model.gate import EdgeGate, EdgeGateSoft, SimilarityGate
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.model.points import IPAPointsModel
from spatial_ipa.model.states import IPALiteModel
from spatial_ipa.model.unshared import IPAUnsharedModel

GraphMode = Literal["gated", "candidates", "true"]
StatesNetwork = IPALiteModel | IPAUnsharedModel | IPAFramesModel
Network = StatesNetwork | IPAPointsModel

_BLOCKS: dict[str, type[StatesNetwork]] = {
    "shared": IPALiteModel,
    "unshared": IPAUnsharedModel,
    "frames": IPAFramesModel,
}


def build_pair(network: NetworkSettings, graph: GraphMode) -> tuple[Network, EdgeGate | None]:
    """Fresh network and gate, drawn in this order from the global generator.

    Args:
        network: size and form of the network.
        graph: ``gated``, ``candidates`` or ``true``; only the first has a gate.

    Raises:
        ValueError: on an unknown graph, or options that do not go with it or with the form.
    """
    if not isinstance(network, NetworkSettings):
        raise UserError("network must be NetworkSettings; spatial_ipa.load reads checkpoints")
    if graph not in ("gated", "candidates", "true"):
        raise UserError(f"graph must be gated, candidates or true, got {graph!r}")
    if graph != "true" and network.distance_term == "monotone":
        raise UserError(
            "distance_term=monotone is for graph=true only: on candidate graphs it would "
            "pull wrong neighbours together; use rbf or none"
        )
    points = network.form == "points"
    given = network.of_states()
    if points and given:
        raise UserError(
            f"{', '.join(given)}: for form=states only; form=points moves points by similarities "
            "and has a distance term of its own"
        )
    if graph != "gated" and network.gate_heads == "own":
        raise UserError(f"gate_heads=own needs a gate, and graph={graph} has none; use gated")
    if graph != "gated" and set(given.values()) == {"qk"}:
        raise UserError(
            f"qk=False with graph={graph} leaves attention without any logit; use graph=gated, "
            "or set distance_term, point_offsets or pair_bias"
        )
    if points:
        model: Network = IPAPointsModel(network, graph == "gated")
    else:
        model = _BLOCKS[network.block](network)
    # Where it is not used the gate must not exist: DDP refuses parameters without gradient.
    if graph != "gated":
        return model, None
    heads = network.heads if network.gate_heads == "own" else None
    return model, SimilarityGate() if points else EdgeGateSoft(network.d_input, heads=heads)


def settings_of(hyperparameters: Mapping[str, Any]) -> tuple[NetworkSettings, GraphMode]:
    """Settings of network and graph from the hyperparameters of a checkpoint.

    Those of earlier versions held the fields of :class:`NetworkSettings` side by side, and knew the
    form ``states`` alone.

    Raises:
        ValueError: if there are none.
    """
    names = {f.name for f in fields(NetworkSettings)}
    held = hyperparameters.get("network", hyperparameters)
    found = {name: held[name] for name in names if name in held}
    if not found:
        raise UserError("it holds no settings of a network; train it anew")
    return NetworkSettings(**{"form": "states"} | found), hyperparameters.get("graph", "gated")
