"""Network and gate of one model, as its settings say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

from common.errors import UserError
from spatial_ipa.model.gate import EdgeGate, EdgeGateSoft, SimilarityGate
from spatial_ipa.model.network import IPALiteModel, NetworkSettings
from spatial_ipa.model.points import IPAPointsModel

GraphMode = Literal["gated", "candidates", "true"]
Network = IPALiteModel | IPAPointsModel


def build_pair(network: NetworkSettings, graph: GraphMode) -> tuple[Network, EdgeGate | None]:
    """Fresh network and gate, drawn in this order from the global generator.

    Args:
        network: size and form of the network.
        graph: ``gated``, ``candidates`` or ``true``; only the first has a gate.

    Raises:
        ValueError: on an unknown graph, or a distance term that does not go with it.
    """
    if not isinstance(network, NetworkSettings):
        raise UserError("network must be NetworkSettings; spatial_ipa.load reads checkpoints")
    if graph not in ("gated", "candidates", "true"):
        raise UserError(f"graph must be gated, candidates or true, got {graph!r}")
    if graph != "true" and network.distance_term == "monotone":
        raise UserError(
            "distance_term=monotone is for graph=true only: on candidate graphs it pulls "
            "wrong neighbours together (E_geo +0.20); use rbf or none"
        )
    points = network.form == "points"
    if points and network.distance_term != "none":
        raise UserError(
            f"distance_term={network.distance_term} is for form=states only: form=points has a "
            "distance term of its own"
        )
    model = IPAPointsModel(network, graph == "gated") if points else IPALiteModel(network)
    # Where it is not used the gate must not exist: DDP refuses parameters without gradient.
    if graph != "gated":
        return model, None
    return model, SimilarityGate() if points else EdgeGateSoft(network.d_input)


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
