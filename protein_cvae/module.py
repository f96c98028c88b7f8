"""Training of the hierarchical CVAE."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from common.align import aligned_rmsd
from common.errors import UserError
from common.files.atomic import atomic_path
from common.files.outputs import prepare_output
from common.rng import combined_key, counter_normal
from common.training.callbacks import best_checkpoint
from common.training.schedules import cosine_decay, cyclical
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.evaluation.metrics import active_units
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.geometry.constants import CA
from protein_cvae.model.divergence import KLSettings, KLTerms, kl_terms, kl_values
from protein_cvae.model.latents import Latents
from protein_cvae.model.losses import (
    LossWeights,
    batch_mean,
    fit_terms,
    geometry_terms,
    means,
    weighted,
    weighted_geometry,
)
from protein_cvae.model.network import Condition, Decoded, Posterior, ProteinCVAE, SequenceDesign

if TYPE_CHECKING:
    from protein_cvae.data.cases import EvaluationCase
    from protein_cvae.evaluation.run import EvaluationRun
    from protein_cvae.generation.commands.request import Request

MONITOR = "val/loss"


class ProteinCVAEModule(pl.LightningModule):
    """ProteinCVAE under the weighted losses of :class:`~protein_cvae.model.losses.LossWeights`.

    Every step encodes the conformers of a batch, decodes them from posterior samples, and decodes a
    draw from the prior, whose geometry alone is scored.  The KL weights of z_global and of the
    detail go through cycles over the training; the validation loss uses their final values.

    ``val/...`` are held-out models of known proteins, ``val_unseen/...`` proteins of held-out
    families, both decoded from posterior means with the medoid as template; RMSDs in Å over CA.

    Args:
        d_embedding, width, layers, condition_layers, heads, feed_forward, dropout, d_global,
            d_local, hidden, decoder_layers, chain_neighbors, spatial_neighbors, sequence_design:
            see :class:`~protein_cvae.model.network.ProteinCVAE`.
        weights: of the losses.
        kl: the guard against posterior collapse.
        lr: learning rate of AdamW.
        lr_final: end of the cosine decay over the steps of the training.
        weight_decay: of AdamW.
        seed: of the noise in training and validation.
        export: copy the selected checkpoint (best by ``val/loss``, else the last) to this file
            when the fit ends; null for none.
        evaluation: how ``lightning test`` judges the model.
    """

    def __init__(
        self,
        d_embedding: int = 0,
        width: int = 512,
        layers: int = 6,
        condition_layers: int = 2,
        heads: int = 8,
        feed_forward: int = 1024,
        dropout: float = 0.1,
        d_global: int = 512,
        d_local: int = 256,
        hidden: int = 256,
        decoder_layers: int = 8,
        chain_neighbors: int = 20,
        spatial_neighbors: int = 30,
        sequence_design: SequenceDesign = "direct",
        weights: LossWeights = LossWeights(),
        kl: KLSettings = KLSettings(),
        lr: float = 5e-4,
        lr_final: float = 1e-5,
        weight_decay: float = 1e-4,
        seed: int = 0,
        export: str | None = None,
        evaluation: EvaluationSettings = EvaluationSettings(),
    ) -> None:
        super().__init__()
        # Not the paths: a checkpoint must not bring back those of an earlier run.
        self.save_hyperparameters(ignore=["export", "weights", "kl", "evaluation"])
        self.model = ProteinCVAE(
            d_embedding,
            width,
            layers,
            condition_layers,
            heads,
            feed_forward,
            dropout,
            d_global,
            d_local,
            hidden,
            decoder_layers,
            chain_neighbors,
            spatial_neighbors,
            sequence_design,
        )
        self.weights, self.kl = weights, kl
        self.lr, self.lr_final, self.weight_decay, self.seed = lr, lr_final, weight_decay, seed
        self.export = None if export is None else Path(export)
        self.evaluation = evaluation
        self._means: list[tuple[Tensor, Tensor]] = []
        self._evaluation_run: EvaluationRun | None = None
        self._resumed_total: int | None = None

    # -- one pass -------------------------------------------------------------------------------

    def noise(self, batch: ProteinBatch, step: int, purpose: int) -> Latents:
        """Standard normal latents; an item's noise depends on nothing but itself and the step."""
        key = combined_key(self.seed, purpose, step, batch.protein, batch.model)
        b, length = batch.mask.shape
        d_global, d_detail = self.model.d_global, self.model.d_detail
        dtype = next(self.model.parameters()).dtype
        # z_global first and residues in order: padding only adds numbers at the end.
        drawn = counter_normal(key, d_global + length * (6 + d_detail), dtype)
        local = drawn[:, d_global:].view(b, length, 6 + d_detail)
        return Latents(drawn[:, :d_global], *local.split([3, 3, d_detail], dim=-1))

    def sample_posterior(self, posterior: Posterior, noise: Latents) -> Latents:
        spread = (0.5 * posterior.shift_log_var).exp()[..., None]
        return Latents(
            posterior.z_global.sample(noise.z_global),
            posterior.shift + spread * noise.shift,
            posterior.turn.sample(noise.turn),
            posterior.detail.sample(noise.detail),
        )

    def _sequence_sample(self, batch: ProteinBatch, posterior: Posterior) -> Tensor | None:
        if posterior.sequence is None:
            return None
        mean = posterior.sequence.mean
        key = combined_key(self.seed, 3, self.global_step, batch.protein, batch.model)
        noise = counter_normal(key, mean[0].numel(), mean.dtype)
        return posterior.sequence.sample(noise.view_as(mean))

    def sample_prior(
        self, condition: Condition, noise: Latents, temperature: float = 1.0
    ) -> Latents:
        """A draw from p(z | sequence, template); ``temperature`` scales its spread."""
        z_global = self.model.prior_global(condition).sample(noise.z_global, temperature)
        shift = self.model.prior_shift(condition, z_global)
        shift = shift + temperature * condition.network.sample(noise.shift)
        prior = self.model.prior_local(condition, z_global, shift)
        return Latents(
            z_global,
            shift,
            prior.turn.sample(noise.turn, temperature),
            prior.detail.sample(noise.detail, temperature),
        )

    def kl_terms(
        self, posterior: Posterior, condition: Condition, z: Latents, weight: Tensor
    ) -> KLTerms:
        """See :func:`~protein_cvae.model.divergence.kl_terms`."""
        return kl_terms(self.model, posterior, condition, z, self.kl.free_bits, weight)

    def decode(
        self,
        batch: ProteinBatch,
        condition: Condition,
        z: Latents,
        sequence: Tensor | None = None,
    ) -> Decoded:
        """Decode latents; the separate design takes its prior's mean where ``sequence`` is None."""
        prior = self.model.prior_sequence(condition)
        if sequence is None and prior is not None:
            sequence = prior.mean
        return self.model.decode(batch, condition, z, sequence)

    def reconstruct(self, batch: ProteinBatch) -> tuple[Decoded, Posterior, Condition]:
        """Decode the posterior means of a batch."""
        condition = self.model.condition(batch)
        posterior = self.model.encode(batch, condition)
        sequence = None if posterior.sequence is None else posterior.sequence.mean
        return self.decode(batch, condition, posterior.mean(), sequence), posterior, condition

    # -- training -------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        precision = str(self.trainer.precision)
        if precision not in ("32-true", "64-true"):
            raise UserError(
                f"trainer.precision must be 32-true or 64-true, got {precision}: bond lengths and "
                "superposition need more digits than half precision has"
            )
        if stage == "fit" and self.export is not None:
            prepare_output(self.export, "model.export")
        width = getattr(getattr(self.trainer, "datamodule", None), "embedding_width", None)
        if width is not None and width != self.model.d_embedding:
            raise UserError(
                f"model.d_embedding is {self.model.d_embedding}, but the sequence embeddings of "
                f"the data are {width} wide; set model.init_args.d_embedding to {width}, or "
                "data.init_args.embedder as in training"
            )

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

    def training_step(self, batch: ProteinBatch, batch_idx: int) -> Tensor:
        progress, factor = self.progress(), self.kl_weight()
        condition = self.model.condition(batch)
        posterior = self.model.encode(batch, condition)
        z = self.sample_posterior(posterior, self.noise(batch, self.global_step, 0))
        decoded = self.decode(batch, condition, z, self._sequence_sample(batch, posterior))
        mask, weights = condition.mask, self.weights
        fit = fit_terms(decoded.coordinates, decoded.logits, batch, mask, weights.tail)
        shape = geometry_terms(decoded.coordinates, batch.aatype, batch.bonded, mask)
        kl = self.kl_terms(posterior, condition, z, batch.weight)
        drawn = self.sample_prior(condition, self.noise(batch, self.global_step, 1))
        free = self.decode(batch, condition, drawn)
        free_shape = geometry_terms(free.coordinates, batch.aatype, batch.bonded, mask)

        item = weighted(weights, fit, progress) + weighted_geometry(weights, shape, progress)
        item = item + weights.prior_geometry * weighted_geometry(weights, free_shape, progress)
        without = torch.full_like(batch.weight, weights.untemplated)
        loss = batch_mean(item * torch.where(condition.templated, 1.0, without), batch.weight)
        loss = loss + kl.penalty(weights, factor)
        size = len(batch)
        self.log("train/loss", loss, batch_size=size, prog_bar=True)
        values = means(fit, batch.weight) | means(shape, batch.weight)
        values |= {f"prior_{k}": v for k, v in means(free_shape, batch.weight).items()}
        values |= kl_values(kl)
        self.log_dict({f"train/{k}": v for k, v in values.items()}, batch_size=size)
        self.log("train/kl_weight", factor, batch_size=size)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        total = max(1, int(self.trainer.estimated_stepping_batches))
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: cosine_decay(step, total, 1.0, self.lr_final / self.lr)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    # -- validation -----------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._means = []

    def validation_step(self, batch: ProteinBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        name = "val" if dataloader_idx == 0 else "val_unseen"
        values, posterior, condition = self.scores(batch)
        if dataloader_idx == 0:
            self._means.append((posterior.z_global.mean, posterior.detail.mean[condition.mask]))
        self.log_dict(
            {f"{name}/{k}": v for k, v in values.items()},
            # Proteins weigh alike, fillers nothing; Lightning takes whole numbers.
            batch_size=round(float(batch.weight.sum()) * 1_000_000),
            sync_dist=True,
            add_dataloader_idx=False,
        )

    def on_validation_epoch_end(self) -> None:
        if not self._means:
            return
        for name, column in (("global", 0), ("detail", 1)):
            means = torch.cat([pair[column] for pair in self._means])
            if len(means) > 1:
                units = active_units(means).sum().float()
                self.log(f"val/active_{name}", units, sync_dist=True)
        self._means = []

    def scores(self, batch: ProteinBatch) -> tuple[dict[str, Tensor], Posterior, Condition]:
        """What validation logs, from posterior means; the loss has final weights."""
        decoded, posterior, condition = self.reconstruct(batch)
        mask, weights = condition.mask, self.weights
        fit = fit_terms(decoded.coordinates, decoded.logits, batch, mask, weights.tail)
        shape = geometry_terms(decoded.coordinates, batch.aatype, batch.bonded, mask)
        kl = self.kl_terms(posterior, condition, posterior.mean(), batch.weight)
        loss = batch_mean(
            weighted(weights, fit, 1.0) + weighted_geometry(weights, shape, 1.0), batch.weight
        )
        loss = loss + kl.penalty(weights)
        drawn = self.sample_prior(condition, self.noise(batch, 0, 2))
        free = self.decode(batch, condition, drawn)
        free_shape = geometry_terms(free.coordinates, batch.aatype, batch.bonded, mask)
        right = ((decoded.logits.argmax(-1) == batch.aatype) & mask).sum(1) / mask.sum(1).clamp_min(
            1
        )
        sigma = (0.5 * posterior.shift_log_var).exp() * mask
        ca, ca_true = decoded.coordinates[:, :, CA], batch.coordinates[:, :, CA].to(sigma)
        core = torch.where((batch.core & mask).any(1, keepdim=True), batch.core & mask, mask)
        values = means(fit, batch.weight) | means(shape, batch.weight)
        values |= {f"prior_{k}": v for k, v in means(free_shape, batch.weight).items()}
        values |= {
            "loss": loss,
            "rmsd": aligned_rmsd(ca, ca_true, mask),
            "rmsd_core": aligned_rmsd(ca, ca_true, core),
            "sequence_accuracy": right,
            "shift_sigma": sigma.sum(1) / mask.sum(1).clamp_min(1),
        }
        values = {k: batch_mean(v, batch.weight) if v.dim() else v for k, v in values.items()}
        values |= kl_values(kl)
        return values, posterior, condition

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            checkpoint["total_steps"] = int(self.trainer.estimated_stepping_batches)

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

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._resumed_total = checkpoint.get("total_steps")
        # A resumed training is checked by its data module itself; what is scored by another one
        # must not have been learned from either.
        data = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        state = checkpoint.get("EnsembleDataModule")
        check = getattr(data, "check_state", None)
        if state is not None and check is not None:
            check(state, resume=self.trainer.state.fn == TrainerFn.FITTING)

    def on_fit_end(self) -> None:
        if self.export is None or getattr(self.trainer, "fast_dev_run", False):
            return
        best = best_checkpoint(self.trainer, MONITOR)
        if not best:
            self.trainer.save_checkpoint(self.export)
        elif self.trainer.is_global_zero:
            with atomic_path(self.export) as temporary:
                shutil.copyfile(best, temporary)

    # -- test -----------------------------------------------------------------------------------

    def on_test_start(self) -> None:
        # Imported here: the evaluation is of this class.
        from protein_cvae.evaluation.run import start_evaluation

        self._evaluation_run = start_evaluation(self, self.evaluation)

    def test_step(self, case: EvaluationCase, batch_idx: int) -> None:
        """Score one protein; see :mod:`protein_cvae.evaluation.score_protein`."""
        assert self._evaluation_run is not None, "on_test_start comes first"
        self._evaluation_run.add(case)

    def on_test_epoch_end(self) -> None:
        assert self._evaluation_run is not None, "on_test_start comes first"
        self._evaluation_run.close()
        self._evaluation_run = None

    # -- use ------------------------------------------------------------------------------------

    def predict_step(self, request: Request, batch_idx: int) -> dict[str, list[str]]:
        """Run one request of :mod:`protein_cvae.generation`; rank zero writes the result."""
        if not hasattr(request, "run"):
            raise UserError(
                "lightning predict needs one of GenerateDataModule, InterpolateDataModule and "
                "EncodeDataModule of protein_cvae.generation; set data.class_path"
            )
        result = request.run(self)
        paths = result.write() if self.trainer.is_global_zero else []
        if paths:
            print(result.message())
            print(f"wrote {' and '.join(map(str, paths))}", flush=True)
        return {"output": [str(path) for path in paths]}
