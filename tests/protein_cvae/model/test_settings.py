"""Sizes of the network: what is refused, and what a checkpoint holds."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from protein_batches import SMALL

from protein_cvae.model.settings import NetworkSettings


def test_settings_of_a_checkpoint_come_back():
    settings = NetworkSettings(**SMALL)
    for found in ({"network": asdict(settings)}, asdict(settings) | {"seed": 3}):
        assert NetworkSettings.from_hyperparameters(found, "x.ckpt") == settings


@pytest.mark.parametrize("grouped", [True, False])
def test_a_network_with_other_latents_is_refused_by_name(grouped: bool):
    old = asdict(NetworkSettings(**SMALL)) | {"d_local": 256, "sequence_design": "direct"}
    found = {"network": old} if grouped else old
    with pytest.raises(ValueError, match=r"old\.ckpt .* \(d_local\).* train the model anew"):
        NetworkSettings.from_hyperparameters(found, "old.ckpt")


def test_another_model_is_refused_by_name():
    found = {"network": {"colour": 3}, "_class_path": "spatial_ipa.SpatialModule"}
    with pytest.raises(ValueError, match=r"x\.ckpt .* checkpoint of spatial_ipa\.SpatialModule"):
        NetworkSettings.from_hyperparameters(found, "x.ckpt")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"d_global": 0}, "d_global must be at least 1"), ({"sequence_design": "direct"}, "'direct'")],
)
def test_sizes_out_of_range_are_refused(options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        NetworkSettings(**options)
