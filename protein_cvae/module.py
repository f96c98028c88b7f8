"""The hierarchical CVAE in ``lightning fit``, ``test`` and ``predict``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from common.errors import UserError
from common.rng import combined_key, counter_normal
from common.training.checks import check_fit, check_strategy
from common.training.export import ExportCheckpoint
from common.training.hyperparameters import regroup
from common.training.memory import steady_memory
from common.training.resuming import exact_resume
from common.training.schedules import cosine_decay, cyclical
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.data.datamodule import EnsembleDataModule
from protein_cvae.data.record import DATA_KEY, data_record
from protein_cvae.data.reports import WriteReading
from protein_cvae.evaluation.run import EvaluationRun, start_evaluation
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.evaluation.validation import (
    ActiveUnits,
    ValidationScores,
    WeightedMeans,
    validation_scores,
)
from protein_cvae.generation.commands.request import Request, written
from protein_cvae.model.kl import KLSettings, kl_terms, kl_values
from protein_cvae.model.losses import (
    LossWeights,
    batch_mean,
    fit_terms,
    geometry_terms,
    means,
    weighted,
)
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.rate import RateSettings, expected_error, levels
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.model.states import Posterior

MONITOR = "val/loss"
# The few weights of the prior of the modes learn this many times as fast: they have far to go.
_FEW = 10.0
_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"
_MADE_BY = {"_class_path": "protein_cvae.ProteinCVAEModule", "_instantiator": _INSTANTIATOR}
# Streams of random numbers: conformers, draws from the prior, validation, sequences, noise levels.
_POSTERIOR, _PRIOR, _VALIDATION, _SEQUENCE, _LEVEL = range(5)


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW under a cosine.

    Attributes:
        lr: learning rate at the start.
        lr_final: at the end of the cosine decay over the steps of the training.
        weight_decay: of AdamW.
    """

    lr: float = 5e-4
    lr_final: float = 1e-5
    weight_decay: float = 1e-4


class ProteinCVAEModule(pl.LightningModule):
    """ProteinCVAE under the weighted losses of :class:`~protein_cvae.model.losses.LossWeights`.

    Every step encodes the conformers of a batch, decodes them from posterior samples, and decodes a
    draw from the prior, whose geometry alone is scored.  The noise of the latents is drawn anew for
    every conformer, so that one network serves every rate.

    ``val/...`` are held-out models of known proteins, ``val_unseen/...`` proteins of held-out
    families, both decoded from draws at the noise ``rate.judged`` with the medoid as template;
    RMSDs in Å over CA.

    Args:
        network: sizes.
        weights: of the losses.
        kl: the guard against posterior collapse.
        rate: noise of the latents in training.
        optimizer: learning rates.
        seed: of the noise in training and validation.
        export: copy the selected checkpoint (best by ``val/loss``, else the last) to this file
            when the fit ends; null for none.
        evaluation: how ``lightning test`` judges the model.
    """

    def __init__(
        self,
        network: NetworkSettings = NetworkSettings(),
        weights: LossWeights = LossWeights(),
        kl: KLSettings = KLSettings(),
        rate: RateSettings = RateSettings(),
        optimizer: OptimizerSettings = OptimizerSettings(),
        seed: int = 0,
        export: str | None = None,
        evaluation: EvaluationSettings = EvaluationSettings(),
    ) -> None:
        super().__init__()
        # Not the paths: those of an earlier run must not come back.  Groups as dictionaries, which
        # are loaded without running code.
        groups = ["network", "weights", "kl", "rate", "optimizer"]
        self.save_hyperparameters(ignore=[*groups, "export", "evaluation"])
        self.save_hyperparameters({"network": asdict(network), "weights": asdict(weights)})
        self.save_hyperparameters({"kl": asdict(kl), "rate": asdict(rate)})
        self.save_hyperparameters({"optimizer": asdict(optimizer)})
        if type(self) is ProteinCVAEModule and "_class_path" not in self.hparams:
            # As the command line records it, so that it takes a checkpoint made in Python too.
            self.save_hyperparameters(dict(_MADE_BY))
        self.model = ProteinCVAE(network)
        self.weights, self.kl, self.rate = weights, kl, rate
        self.optimizer, self.seed = optimizer, seed
        self.export = None if export is None else Path(export)
        self.evaluation = evaluation
        self._means: dict[str, WeightedMeans] = {}
        self._units: dict[str, ActiveUnits] = {}
        self._evaluation_run: EvaluationRun | None = None
        self._resumed_total: int | None = None

    @staticmethod
    def convert_hyperparameters(found: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a checkpoint, grouped as the constructor takes them if they stand one by one."""
        return regroup(found, {"network": NetworkSettings, "optimizer": OptimizerSettings})

    def configure_callbacks(self) -> list[pl.Callback]:
        check_strategy(self)
        callbacks = [*exact_resume(self.trainer), *steady_memory(self.trainer)]
        if self.export is not None:
            beside = self.export.with_name(f"{self.export.name}.json")
            callbacks += [ExportCheckpoint(self.export, MONITOR), WriteReading(beside)]
        return callbacks

    def setup(self, stage: str) -> None:
        if stage == "fit":
            check_fit(self, EnsembleDataModule)
        precision = str(self.trainer.precision)
        if precision not in ("32-true", "64-true"):
            raise UserError(
                f"trainer.precision must be 32-true or 64-true, got {precision}: bond lengths and "
                "superposition need more digits than half precision has"
            )
        width = getattr(getattr(self.trainer, "datamodule", None), "embedding_width", None)
        if width is not None and width != self.model.d_embedding:
            raise UserError(
                f"model.network.d_embedding is {self.model.d_embedding}, but the sequence "
                f"embeddings of the data are {width} wide; set model.init_args.network.d_embedding "
                f"to {width}, or data.init_args.embedder as in training"
            )

    # -- training -------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: ProteinBatch, batch_idx: int) -> None:
        # Dropout knows the global generator only: seeded here, a resumed run repeats it.
        torch.manual_seed(int(combined_key(self.seed, self.global_step, self.global_rank)))

    def progress(self) -> float:
        """Fraction of the training that is done."""
        return self.global_step / max(1, int(self.trainer.estimated_stepping_batches))

    def kl_weight(self) -> float:
        """The cycle's factor, in [0, 1]."""
        total = max(1, int(self.trainer.estimated_stepping_batches))
        return cyclical(self.global_step, total, min(self.kl.cycles, total), self.kl.ramp)

    def _sequence_sample(self, batch: ProteinBatch, posterior: Posterior) -> Tensor | None:
        if posterior.sequence is None:
            return None
        mean = posterior.sequence.mean
        key = combined_key(self.seed, _SEQUENCE, self.global_step, batch.protein, batch.model)
        noise = counter_normal(key, mean[0].numel(), mean.dtype)
        return posterior.sequence.sample(noise.view_as(mean))

    def training_step(self, batch: ProteinBatch, batch_idx: int) -> Tensor:
        progress, factor = self.progress(), self.kl_weight()
        network, weights, step = self.model, self.weights, self.global_step
        condition = network.condition(batch)
        level = self._levels(batch)
        posterior = network.encode(batch, condition, level)
        noise = network.noise(batch, self.seed, step, _POSTERIOR)
        z = network.sample_posterior(condition, posterior, noise)
        decoded = network.decode(batch, condition, z, self._sequence_sample(batch, posterior))
        fit = fit_terms(decoded, batch, condition.mask, weights.tail)
        shape = geometry_terms(decoded, batch, condition.mask)
        coil = network.coil.nll(batch, condition)
        kl = kl_terms(network, posterior, condition, z, batch.weight, self.kl.free_bits)
        noise = network.noise(batch, self.seed, step, _PRIOR)
        drawn = network.sample_prior(batch, condition, noise, tails=False, level=level)
        free = geometry_terms(network.decode(batch, condition, drawn), batch, condition.mask)

        item = weighted(weights, fit, progress) * expected_error(level, condition.templated)
        item = item + weighted(weights, shape, progress) + weights.coil * coil
        item = item + weights.prior_geometry * weighted(weights, free, progress)
        without = torch.full_like(batch.weight, weights.untemplated)
        loss = batch_mean(item * torch.where(condition.templated, 1.0, without), batch.weight)
        width = network.channel.mismatch(condition.modes, batch.core, posterior.shift)
        # Of one weight that nothing else moves: it needs no factor.
        loss = loss + kl.penalty(weights, factor) + batch_mean(width, batch.weight)
        size = len(batch)
        self.log("train/loss", loss, batch_size=size, prog_bar=True)
        found = (
            fit
            | shape
            | {f"prior_{k}": v for k, v in free.items()}
            | {"coil": coil, "width": width}
        )
        values = means(found, batch.weight) | kl_values(kl)
        self.log_dict({f"train/{k}": v for k, v in values.items()}, batch_size=size)
        self.log("train/kl_weight", factor, batch_size=size)
        return loss

    def _levels(self, batch: ProteinBatch) -> Tensor:
        """(B, 2) Å, noise of the latents of each item in this step."""
        key = combined_key(self.seed, _LEVEL, self.global_step, batch.protein, batch.model)
        return levels(counter_normal(key, 3, batch.coordinates.dtype), self.rate)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        data = getattr(self.trainer, "datamodule", None)
        assert isinstance(data, EnsembleDataModule), "checked in setup"
        lr, final = self.optimizer.lr * data.rate_factor, self.optimizer.lr_final * data.rate_factor
        few = list(self.model.channel.parameters())
        rest = [p for p in self.parameters() if all(p is not other for other in few)]
        groups: list[dict[str, Any]] = [{"params": rest}, {"params": few, "lr": _FEW * lr}]
        optimizer = torch.optim.AdamW(
            groups,
            lr=lr,
            weight_decay=self.optimizer.weight_decay,
        )
        total = max(1, int(self.trainer.estimated_stepping_batches))
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: cosine_decay(step, total, 1.0, final / lr)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    # -- validation -----------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._means, self._units = {}, {}

    def validation_step(self, batch: ProteinBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        name = "val" if dataloader_idx == 0 else "val_unseen"
        found = self.scores(batch)
        # Proteins weigh alike, fillers nothing.
        self._means.setdefault(name, WeightedMeans(self.device)).update(
            found.values, batch.weight.sum()
        )
        if dataloader_idx == 0:
            for latent, rows in found.latent_means.items():
                self._units.setdefault(latent, ActiveUnits(rows.shape[1], self.device)).update(rows)

    def on_validation_epoch_end(self) -> None:
        for name, means_of in self._means.items():
            self.log_dict({f"{name}/{k}": v for k, v in means_of.compute().items()})
        for latent, units in self._units.items():
            active = units.compute()
            if bool(torch.isfinite(active)):
                self.log(f"val/active_{latent}", active)

    def scores(self, batch: ProteinBatch) -> ValidationScores:
        """What validation logs, from draws at ``rate.judged``; the loss has final weights."""
        draws = (self.model.noise(batch, self.seed, step, _VALIDATION) for step in (0, 1))
        return validation_scores(
            self.model, batch, self.weights, self.kl.free_bits, self.rate, *draws
        )

    # -- checkpoints ----------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if (trainer := self._trainer) is None:  # `self.trainer` would raise
            return
        if trainer.state.fn == TrainerFn.FITTING:
            checkpoint["total_steps"] = int(trainer.estimated_stepping_batches)
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, EnsembleDataModule):
            checkpoint[DATA_KEY] = data.record()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse data that do not fit the checkpoint: another split, or what was learned from."""
        self._resumed_total = checkpoint.get("total_steps")
        data = getattr(self._trainer, "datamodule", None)
        if isinstance(data, EnsembleDataModule):
            data.check_record(data_record(checkpoint), self.trainer.state.fn == TrainerFn.FITTING)

    def on_train_start(self) -> None:
        """Refuse to resume over another number of steps: every schedule runs over them.

        Raises:
            ValueError: if so.
        """
        total = int(self.trainer.estimated_stepping_batches)
        if self._resumed_total not in (None, total):
            raise UserError(
                f"this checkpoint's learning rate and loss weights run over {self._resumed_total} "
                f"steps, now there are {total}; resume it with the epochs, batches and processes "
                "it was started with, or train anew without --ckpt_path"
            )

    # -- test and use ---------------------------------------------------------------------------

    def on_test_start(self) -> None:
        self._evaluation_run = start_evaluation(self.model, self.evaluation, self.trainer)

    def test_step(self, case: EvaluationCase, batch_idx: int) -> None:
        """Score one protein; see :mod:`protein_cvae.evaluation.score_protein`."""
        assert self._evaluation_run is not None, "on_test_start comes first"
        self._evaluation_run.add(case)

    def on_test_epoch_end(self) -> None:
        assert self._evaluation_run is not None, "on_test_start comes first"
        self._evaluation_run.close()
        self._evaluation_run = None

    def predict_step(self, request: Request, batch_idx: int) -> dict[str, list[str]]:
        """Run one request of :mod:`protein_cvae.generation`; rank zero writes the result."""
        if not hasattr(request, "run"):
            raise UserError(
                "lightning predict needs one of GenerateDataModule, InterpolateDataModule and "
                "EncodeDataModule of protein_cvae; set data.class_path"
            )
        checkpoint = self.trainer.ckpt_path
        result = request.run(self.model, None if checkpoint is None else Path(checkpoint))
        paths = written(result) if self.trainer.is_global_zero else []
        return {"output": [str(path) for path in paths]}
