"""The wheel cache: complete wheels alone, one folder for each torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.bootstrap import wheels
from common.bootstrap.environment import ROOT, Venv, requirements
from common.bootstrap.steps import Step, StepFailed


def test_cached_wheels_need_no_compiler(project, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(wheels, "compile_wheels", lambda *_: pytest.fail("compiled"))
    tag = f"{sys.implementation.cache_tag}-" + subprocess.check_output(
        [sys.executable, "-c", "import sysconfig; print(sysconfig.get_platform())"], text=True
    )
    folder = tmp_path / "cache" / "edgewise" / "wheels" / f"2.13.0+cpu-{tag.strip()}"
    folder.mkdir(parents=True)
    names = ["torch_scatter-2.1.2-cp311-x.whl", "torch_cluster-1.6.3-cp311-x.whl"]
    for name in names:
        (folder / name).touch()
    assert wheels.cached_anywhere()
    found = wheels.peer_wheels(Venv(project / ".venv"), "2.13.0+cpu", project)
    assert found == [folder / name for name in names]


@pytest.fixture
def builds(monkeypatch, tmp_path):
    """Replaces pip by something that makes empty wheels and records what was asked for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(wheels, "require_compiler", lambda: None)
    asked: list[str] = []

    def build(todo: list[Step], logs: Path, cwd: Path, environment: dict[str, str]) -> None:
        for step in todo:
            spec = step.command[-1]
            asked.append(spec)
            target = Path(step.command[step.command.index("--wheel-dir") + 1])
            (target / f"{spec.replace('-', '_').replace('==', '-')}-cp311-x.whl").touch()
            if spec == "fails==1":
                raise StepFailed(spec)

    monkeypatch.setattr(wheels, "run_steps", build)
    return asked


def test_an_interrupted_build_leaves_no_wheel(project, builds, monkeypatch, tmp_path):
    monkeypatch.setattr(wheels, "COMPILED", ("torch-scatter==2.1.2", "fails==1"))
    with pytest.raises(StepFailed, match="fails==1"):
        wheels.peer_wheels(Venv(project / ".venv"), "2.13.0+cpu", project)
    assert len(builds) == 2
    assert not list((tmp_path / "cache").rglob("*.whl"))


def test_only_missing_wheels_are_compiled(project, builds, monkeypatch):
    venv = Venv(project / ".venv")
    both = wheels.COMPILED
    monkeypatch.setattr(wheels, "COMPILED", both[:1])
    wheels.peer_wheels(venv, "2.13.0+cpu", project)
    monkeypatch.setattr(wheels, "COMPILED", both)
    found = wheels.peer_wheels(venv, "2.13.0+cpu", project)
    assert builds == list(both), "each once"
    assert [file.name.partition("-")[0] for file in found] == ["torch_scatter", "torch_cluster"]


def test_another_torch_has_its_own_wheels(project, builds):
    venv = Venv(project / ".venv")
    first = wheels.peer_wheels(venv, "2.13.0+cpu", project)
    second = wheels.peer_wheels(venv, "2.14.0+cpu", project)
    assert not set(first) & set(second)
    assert builds == [*wheels.COMPILED, *wheels.COMPILED]


def test_the_extra_names_the_same_releases():
    """What set-up compiles is what `pip install 'edgewise[pyg]'` takes, and no later release."""
    pinned = {line.partition(">=")[0]: line.rpartition("<=")[2] for line in extra()}
    assert pinned == dict(spec.split("==") for spec in wheels.COMPILED)


def extra() -> list[str]:
    listed = set(requirements(ROOT, [wheels.PEERS])) - set(requirements(ROOT))
    return sorted(listed)
