"""LUNA (Yu et al., bioRxiv 2025, "Tissue reassembly with generative AI"): diffusion of positions.

Its files of settings (eight layers, 1,000 steps of diffusion, cosine schedule) and those of its
example: AdamW at 5e-4, batches of six slides, 1,000 epochs.  A slide's positions are drawn once.
Its runner is left out: it starts 32 processes per loader of data, writes checkpoints to read them
again, and draws a figure of each slide beside its true positions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from protocol import Answer, Slice, Task, drive
from sources import commit


def write_table(parts: Sequence[Slice], path: Path) -> None:
    """Slides as LUNA reads them: log2 of expression, coordinates, section and class of cells."""
    import pandas as pd

    values = np.concatenate([part.logged(1e4) for part in parts]) / np.log(2)
    # In the order of their names, into which LUNA brings the genes.
    table = pd.DataFrame(values, columns=[f"g{i:06d}" for i in range(values.shape[1])])
    # Rows of equal coordinates become NaN and are dropped, so unknown ones are just numbered.
    xy = [np.arange(2.0 * len(p.counts)).reshape(-1, 2) if p.xy is None else p.xy for p in parts]
    table["coord_X"], table["coord_Y"] = np.concatenate(xy).T
    table["cell_section"] = np.repeat([f"{i:03d}" for i in range(len(parts))], [len(x) for x in xy])
    table["cell_class"] = "cell"
    table.to_csv(path, float_format="%.5g")


def solve(task: Task, source: Path | None) -> Answer:
    assert source is not None
    sys.path.insert(0, str(source))
    import pytorch_lightning as pl  # noqa: TID251 LUNA's module is one of this tree
    import torch
    from datasets.data_module import DataModule, Infos
    from diffusion_model import FullDenoisingDiffusion
    from omegaconf import OmegaConf
    from torch.utils.data import DataLoader
    from utils.data.misc import to_batch
    from utils.diffusion_model.sample.sample import sample_graphs

    torch.set_num_threads(1)
    pl.seed_everything(task.seed)
    given = source / "configs"
    kinds = ("general", "model", "train", "test", "validation")
    settings = OmegaConf.merge(
        *({kind: OmegaConf.load(given / kind / "default.yaml")} for kind in kinds),
        OmegaConf.load(given / "experiment" / "MERFISH_mouse_cortex.yaml"),
    )
    settings.general.wandb = "disabled"
    settings.dataset.gene_columns_end = task.train[0].counts.shape[1]
    settings.dataset.train_data_path, settings.dataset.test_data_path = "train.csv", "test.csv"
    write_table(task.train, Path("train.csv"))
    write_table(task.test, Path("test.csv"))
    data = DataModule(settings)
    loader = DataLoader(
        data.train_dataset, settings.train.batch_size, shuffle=True, collate_fn=data.collate
    )
    model = FullDenoisingDiffusion(settings, Infos(data, settings))

    def stop_in_time(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trainer.should_stop = time.process_time() - start > task.budget_s

    trainer = pl.Trainer(
        max_epochs=settings.train.n_epochs, accelerator="cpu", devices=1, logger=False,
        callbacks=[pl.callbacks.LambdaCallback(on_train_epoch_end=stop_in_time)],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    start = time.process_time()
    trainer.fit(model, loader)
    train_s, start = time.process_time() - start, time.process_time()
    model.eval()
    placed = np.full((sum(len(part.counts) for part in task.test), 2), np.nan)
    for batch in DataLoader(data.test_dataset, 1, collate_fn=data.collate):
        (xy,) = sample_graphs(model, to_batch(batch), True)
        placed[batch.cell_ID.numpy()] = xy.numpy()  # it sorts the rows
    cuts = np.cumsum([len(part.counts) for part in task.test])[:-1]
    predict_s = time.process_time() - start
    epochs, asked = trainer.current_epoch, settings.train.n_epochs
    layouts = {"": np.split(placed, cuts)}
    return Answer(layouts, train_s, predict_s, epochs, asked, f"LUNA {commit(source)}")


if __name__ == "__main__":
    drive(solve)
