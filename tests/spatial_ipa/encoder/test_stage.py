"""The encoder as a stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.encoder.stage import ensure_encoder, yaml_list
from spatial_ipa.training.datamodule import SlideDataModule
from spatial_ipa.training.settings import EncoderFile


def test_an_absent_encoder_reads_the_slides_as_the_model_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = SlideKeys("counts", "symbol", "xy")
    scrna_keys = SlideKeys("raw.X", "feature_name")
    stages: list[list[str]] = []
    monkeypatch.setattr("spatial_ipa.encoder.stage.run_stage", stages.append)
    encoder = EncoderFile(str(tmp_path / "encoder.pt"), "e.yaml")
    module = SlideDataModule(["a"], ["b"], encoder, keys=keys, scrna_keys=scrna_keys)
    ensure_encoder(Path(encoder.path), encoder.config, module.inputs)
    (arguments,) = stages
    assert {
        "--data.init_args.keys.spatial_key=xy",
        "--data.init_args.keys.layer=counts",
        "--data.init_args.keys.gene_key=symbol",
        "--data.init_args.scrna_keys.layer=raw.X",
        "--data.init_args.scrna_keys.gene_key=feature_name",
    } <= set(arguments)
    (tmp_path / "encoder.pt").touch()
    ensure_encoder(Path(encoder.path), None, module.inputs)  # it is there
    assert len(stages) == 1


@pytest.mark.parametrize(
    "values",
    [
        [],
        ["a.h5ad"],
        ["it's", "a, b", "c: d", "[x]", "{y}", "# z", ' "q" ', "", "-", "null", "1", "é", "a\\n"],
    ],
)
def test_yaml_list_survives_the_parser(values: list[str]) -> None:
    assert yaml.safe_load(yaml_list(values)) == values
