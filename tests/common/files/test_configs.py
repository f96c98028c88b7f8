"""Shipped configurations are found in a checkout, and where a wheel puts them."""

from pathlib import Path

import pytest

from common.errors import MissingFile
from common.files import configs

ROOT = Path(__file__).resolve().parents[3]


def test_every_configuration_of_the_checkout_is_found() -> None:
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert files
    for file in files:
        assert configs.shipped_config(str(file.relative_to(ROOT / "configs"))) == file


def test_a_wheel_puts_them_under_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "share/edgewise/configs/spatial_ipa/fit.yaml"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr(configs, "_CHECKOUT", tmp_path / "site-packages/configs")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert configs.shipped_config("spatial_ipa/fit.yaml") == file


def test_what_is_nowhere_is_refused_by_name() -> None:
    with pytest.raises(MissingFile, match=r"the configuration spatial_ipa/none\.yaml is neither"):
        configs.shipped_config("spatial_ipa/none.yaml")


def test_a_path_below_configs_leads_to_the_shipped_file_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = configs.find_config("configs/trainer/cpu.yaml")
    assert shipped.is_absolute()
    assert shipped.is_file()
    assert configs.find_config("configs/absent.yaml") == Path("configs/absent.yaml")
    assert configs.find_config("trainer/cpu.yaml") == Path("trainer/cpu.yaml")
    own = tmp_path / "configs" / "trainer" / "cpu.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("trainer: {}")
    assert configs.find_config("configs/trainer/cpu.yaml").resolve() == own
