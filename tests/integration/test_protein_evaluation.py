"""`lightning test` of protein_cvae: killed, and gone on with by one process and by two."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_runs import ROOT, lightning, options
from test_protein_training import CONFIGS, MODEL, TINY, fit

EVALUATION = f"{MODEL}.evaluation"


def arguments(out: Path | None, checkpoint: Path, **settings: object) -> list[str]:
    """Of a test that writes to ``out``, or to its log folder; keys use __ for dots."""
    values = {key: value for key, value in TINY.items() if key.startswith("data.")} | {
        f"{EVALUATION}.count": 3,
        f"{EVALUATION}.figures": 0,
        "trainer.enable_progress_bar": "false",
        "trainer.logger": "false",
        "trainer.callbacks": "null",
    }
    if out is not None:
        values |= {f"{EVALUATION}.output": out, "trainer.default_root_dir": out}
    values |= {key.replace("__", "."): value for key, value in settings.items()}
    configs = [f"--config={ROOT / name}" for name in CONFIGS]
    return ["test", *configs, f"--ckpt_path={checkpoint}", *options(values)]


def untimed(out: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (out / "evaluation.jsonl").read_text().splitlines()]
    return {
        "rows": [{k: v for k, v in row.items() if k != "seconds"} for row in rows],
        "physicality": json.loads((out / "physicality.json").read_text()),
    }


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, its whole evaluation, and one killed after two of three proteins.

    What the latter has kept carries a mark, which computing would not give.
    """
    folder = tmp_path_factory.mktemp("killed")
    checkpoint = fit(folder / "fit", trainer__max_epochs=1)
    lightning(*arguments(folder / "whole", checkpoint), cwd=folder)
    killer = json.dumps([{"class_path": "lightning_runs.KillInTest", "init_args": {"after": 2}}])
    done = lightning(
        *arguments(folder / "cut", checkpoint, trainer__callbacks=killer), cwd=folder, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert not (folder / "cut" / "evaluation.jsonl").exists()
    first, _ = (folder / "cut" / "progress").iterdir()
    record = json.loads(first.read_text())
    record["rows"][0]["seconds"] = 12345.0
    first.write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_and_gone_on_with_equals_uninterrupted(
    killed: Path, tmp_path: Path, ranks: int
) -> None:
    """SIGKILL after two of three proteins; then one process, or two, of which one has a filler."""
    out = tmp_path / "cut"
    shutil.copytree(killed / "cut", out)
    more = {"trainer__devices": 2, "trainer__strategy": "ddp"} if ranks == 2 else {}
    lightning(*arguments(out, killed / "fit" / "model.ckpt", **more), cwd=tmp_path)
    assert '"seconds": 12345.0' in (out / "evaluation.jsonl").read_text()
    assert not (out / "progress").exists()
    assert untimed(out) == untimed(killed / "whole")


def test_another_checkpoint_takes_nothing(killed: Path, tmp_path: Path) -> None:
    """And a logger's folder of its own for each run does not hide what was found."""
    checkpoint = killed / "fit" / "model.ckpt"
    moved = torch.load(checkpoint, weights_only=True)
    name = next(key for key, value in moved["state_dict"].items() if value.is_floating_point())
    moved["state_dict"][name] += 0.1
    torch.save(moved, tmp_path / "moved.ckpt")
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(tmp_path), "name": "logs"},
    }
    logged = {"trainer__logger": json.dumps(logger)}
    killer = json.dumps([{"class_path": "lightning_runs.KillInTest", "init_args": {"after": 1}}])
    done = lightning(
        *arguments(None, checkpoint, **logged, trainer__callbacks=killer),
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    kept = tmp_path / "logs" / "evaluation_progress"
    (first,) = kept.iterdir()
    lightning(*arguments(None, tmp_path / "moved.ckpt", **logged), cwd=tmp_path)
    assert list(kept.iterdir()) == [first]
    lightning(*arguments(None, checkpoint, **logged), cwd=tmp_path)
    assert not kept.exists()
