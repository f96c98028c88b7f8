"""Fits of seconds for the benchmarks of clusters, and what they leave."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from cluster_ranks import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

STEPS, EPOCHS = 4, 2
Options = Mapping[str, object]
_MODEL, _DATA = "model.init_args", "data.init_args"
_MINISETS, _DRAWS, _NETWORK = f"{_DATA}.minisets", f"{_DATA}.draws", f"{_MODEL}.network"


@dataclass(frozen=True)
class SmallFit:
    """A fit of seconds.

    Attributes:
        name: of the model, and of its configurations.
        options: of every fit.
        batch: key of the batch size; ``scaling`` stands beside it.
        score: logged value that rules of scaling are judged by, the smaller the better.
        rates: the learning rate of the scaling, by key.
    """

    name: str
    options: Options
    batch: str
    score: str

    @property
    def scaling(self) -> str:
        return f"{self.batch.rpartition('.')[0]}.scaling"

    def arguments(self, out: Path, changes: Options) -> list[str]:
        """Arguments of a fit into ``out``."""
        values = {
            "trainer.default_root_dir": out,
            "trainer.logger.init_args.save_dir": out,
            "trainer.log_every_n_steps": 1,
            "trainer.enable_progress_bar": "false",
            "trainer.enable_model_summary": "false",
            **self.options,
            **changes,
        }
        config = ROOT / "configs" / self.name / "fit.yaml"
        return ["fit", f"--config={config}", *(f"--{key}={value}" for key, value in values.items())]


def spatial(folder: Path) -> SmallFit:
    """Three training slides and one for validation, simulated in ``folder`` with their encoder."""
    encoder = folder / "encoder.pt"
    slides = folder / "tissue" / "slides"
    train = f"['{slides}/slide_[0-2].h5ad']"
    held_out = f"['{slides}/slide_3.h5ad']"
    if not encoder.exists():
        _python(
            "-m", "spatial_ipa.data.simulation.files", "--out", str(folder / "tissue"),
            "--slides", "4", "--spots", "120", "--genes", "150", "--cells", "60",
        )  # fmt: skip
        _python(
            "-m", "common.cli", "fit", f"--config={ROOT / 'configs/spatial_ipa/encoder.yaml'}",
            f"--data.init_args.train_slides={train}",
            f"--data.init_args.heldout_slides={held_out}", "--data.init_args.scrna=[]",
            "--data.init_args.simulate=null", f"--model.init_args.output={encoder}",
            f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false",
            "--trainer.logger=false", "--trainer.accelerator=cpu",
        )  # fmt: skip
    options = {
        f"{_DATA}.train_slides": train,
        f"{_DATA}.val_slides": held_out,
        f"{_DATA}.encoder.path": encoder,
        f"{_DATA}.encoder.cache": folder / "cache",
        f"{_DATA}.simulate": "null",
        f"{_DATA}.scrna": "[]",
        f"{_MODEL}.schedule.gate_steps": 6,
        f"{_MODEL}.schedule.ramp_epochs": 1,
        f"{_MODEL}.export": "null",
        f"{_MINISETS}.val_per_slide": 3,
        f"{_MINISETS}.size_min": 60,
        f"{_MINISETS}.size_max": 80,
        f"{_MINISETS}.num_candidates": 20,
        f"{_MINISETS}.num_workers": 0,
    }
    return SmallFit("spatial_ipa", options, f"{_MINISETS}.batch_size", "val/e_geo_own_graph")


def protein(folder: Path) -> SmallFit:
    """Three simulated ensembles."""
    options = {
        f"{_NETWORK}.width": 32,
        f"{_NETWORK}.layers": 1,
        f"{_NETWORK}.condition_layers": 1,
        f"{_NETWORK}.heads": 4,
        f"{_NETWORK}.feed_forward": 64,
        f"{_NETWORK}.d_global": 8,
        f"{_NETWORK}.hidden": 16,
        f"{_NETWORK}.decoder_layers": 1,
        f"{_NETWORK}.chain_neighbors": 4,
        f"{_NETWORK}.spatial_neighbors": 6,
        f"{_MODEL}.export": "null",
        f"{_DRAWS}.models_per_protein": 2,
        f"{_DATA}.num_workers": 0,
        f"{_DATA}.simulate.num_proteins": 3,
        f"{_DATA}.simulate.num_models": 6,
        f"{_DATA}.simulate.min_length": 24,
        f"{_DATA}.simulate.max_length": 30,
    }
    return SmallFit("protein_cvae", options, f"{_DRAWS}.batch_proteins", "val/loss")


MODELS: dict[str, Callable[[Path], SmallFit]] = {"spatial_ipa": spatial, "protein_cvae": protein}


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)


def small(fit: SmallFit) -> Options:
    """Two epochs of four steps, whose four draws all processes share."""
    per_epoch = f"{fit.batch.rpartition('.')[0]}.per_epoch"
    return {
        fit.batch: 4,
        fit.scaling: "batch",
        per_epoch: 4 * STEPS,
        "trainer.max_epochs": EPOCHS,
    }


def last_weights(out: Path) -> dict[str, torch.Tensor]:
    """The weights of the only last.ckpt below a folder, whose fit must have finished."""
    (path,) = out.rglob("last.ckpt")
    state = torch.load(path, weights_only=True)
    assert state["global_step"] == STEPS * EPOCHS, state["global_step"]
    return dict(state["state_dict"])


def difference(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """Largest absolute difference of two sets of weights."""
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def logged(out: Path, key: str) -> list[tuple[int, float]]:
    """Steps and values of a key in the TensorBoard files of the only run below a folder."""
    folders = sorted({path.parent for path in out.rglob("events.out.tfevents.*")})
    events = EventAccumulator(str(folders[0]), size_guidance={"scalars": 0}).Reload()
    return [(point.step, point.value) for point in events.Scalars(key)]


def newest(out: Path) -> tuple[str, int]:
    """The newest checkpoint of a run that has been stopped, and its step."""
    found = {path: torch.load(path, weights_only=True) for path in out.rglob("*.ckpt")}
    path = max(found, key=lambda path: (found[path]["global_step"], path.stat().st_mtime_ns))
    return path.name, int(found[path]["global_step"])
