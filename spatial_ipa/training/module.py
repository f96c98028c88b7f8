"""Training of gate and model together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from common.errors import UserError
from common.files.outputs import prepare_output
from common.graph.edges import EdgeList
from common.training.checks import check_fit, check_strategy
from common.training.export import ExportCheckpoint
from common.training.hyperparameters import make_plain
from common.training.memory import steady_memory
from common.training.resuming import exact_resume
from common.training.schedules import linear_ramp, ramp_reached
from spatial_ipa.layout.frame_fit import cross_fit
from spatial_ipa.model.diagnostics import health_checks
from spatial_ipa.model.losses import LossWeights, geometry_terms, loss_gate
from spatial_ipa.model.minisets import Miniset
from spatial_ipa.model.network import Layout, NetworkSettings
from spatial_ipa.model.pair import GraphMode, build_pair
from spatial_ipa.model.points import IPAPointsModel
from spatial_ipa.model.trace import first_graph
from spatial_ipa.placing.command import PredictionRequest
from spatial_ipa.placing.context import PlacementContext
from spatial_ipa.placing.placer import Placer
from spatial_ipa.training.checkpoints import check_completable, complete_checkpoint, context_of
from spatial_ipa.training.datamodule import MinisetDataModule
from spatial_ipa.training.figures import log_layout, log_trace, shows_figures
from spatial_ipa.training.gate_pretraining import pretrain_gate
from spatial_ipa.training.settings import Schedule, regroup_hyperparameters

MONITOR = "val/e_geo"


class SpatialIPAModule(pl.LightningModule):
    """Gate and network under the ramped energy

        w_rw L_RW + w_stress L_stress + w_repulsion L_rep + w_entropy L_ent
        + w_gate L_gate + w_procrustes L_procrustes

    (:mod:`spatial_ipa.model.losses`).  Epoch 0 has w_rw = 0; it then ramps to its final value.  The
    monitored ``val/e_geo`` is logged from the first epoch at that value, so that checkpoints and
    early stopping cannot look at epochs before.  ``val/e_geo_own_graph`` and
    ``val/e_geo_true_graph`` are E_geo on the model's own graph and on the true spatial graph, every
    epoch.  ``lightning validate`` logs all three, and ``lightning test`` the same as ``test/...``,
    on the validation slides.

    Before the first epoch the gate alone is trained on its KL, by each rank on its own device from
    the same draws; DDP then starts all ranks from rank 0's weights.

    Args:
        network: size and form of the network.
        graph: ``gated``: candidate graph with gate (the method).  ``candidates``: candidate graph,
            no gate.  ``true``: the true spatial graph, no gate; a ceiling, not usable on new cells.
        weights: of the loss terms.
        schedule: lengths and rates of the training.
        common_frame: average layouts with regression in the common frame of the training slides
            (:mod:`spatial_ipa.layout.frame_regression`).  Set it false where these are unrelated
            tissues.
        export: copy the selected checkpoint (best by the monitor, else the last epoch) to this
            file when the fit ends, completed by what placing new cells needs; null for none.
        calibration_draws: layouts per validation slide from which the export's error radii are
            calibrated (:mod:`spatial_ipa.confidence.calibration`); radii are given to predictions
            of as many draws or more; 0 for no radii.

    Example:
        >>> import spatial_ipa
        >>> module = spatial_ipa.SpatialIPAModule()
        >>> sum(p.numel() for p in module.parameters())
        465
    """

    convert_hyperparameters = staticmethod(regroup_hyperparameters)

    def __init__(
        self,
        network: NetworkSettings = NetworkSettings(),
        graph: GraphMode = "gated",
        weights: LossWeights = LossWeights(),
        schedule: Schedule = Schedule(),
        common_frame: bool = True,
        export: str | None = None,
        calibration_draws: int = 16,
    ) -> None:
        super().__init__()
        if calibration_draws < 0 or calibration_draws == 1:
            raise UserError(f"calibration_draws must be 0 or at least 2, got {calibration_draws}")
        if network.form == "points" and not common_frame:
            raise UserError(
                "network.form=points starts in the common frame, so common_frame must be true; for "
                "unrelated tissues set network.form to states"
            )
        # Not the export: a checkpoint must not bring back the path of an earlier run.
        self.save_hyperparameters(ignore=["export", "calibration_draws"])
        make_plain(self)
        self.model, self.gate = build_pair(network, graph)
        self.graph: GraphMode = graph
        self.weights, self.schedule, self.common_frame = weights, schedule, common_frame
        self.export = None if export is None else Path(export)
        self.calibration_draws = calibration_draws
        self.context: PlacementContext | None = None
        self.gate_history: list[float] = []

    def check_settings(self, trainer: pl.Trainer) -> None:
        """Refuse settings that a fit under ``trainer`` could not end with.

        Raises:
            ValueError: on the number of epochs, of recycles, or the place of the export.
        """
        epochs = trainer.max_epochs
        if epochs is None or epochs < 1:
            raise UserError(
                "trainer.max_epochs must be set, to at least 1: the cosine decay runs over it"
            )
        network = self.model.settings
        unread = network.recycles < 2 or network.block == "unshared"
        if network.form == "states" and unread and trainer.world_size > 1:
            raise UserError(
                "model.init_args.network: recycles must be at least 2 on several processes, and "
                "block not unshared: the last pass leaves a state update without gradient, which "
                "DDP refuses"
            )
        if self.export is not None:
            prepare_output(self.export, "model.export")

    def configure_callbacks(self) -> list[pl.Callback]:
        check_strategy(self)
        callbacks = [*exact_resume(self.trainer), *steady_memory(self.trainer)]
        if self.export is not None:
            callbacks.append(ExportCheckpoint(self.export, MONITOR, self._complete_export))
        return callbacks

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit":
            self.check_settings(self.trainer)
            check_fit(self, MinisetDataModule)
        if not isinstance(data, MinisetDataModule):
            return
        if data.width != (width := self.model.settings.d_input):
            raise UserError(
                f"model.network.d_input is {width}, but the embeddings are {data.width} wide; set "
                f"model.init_args.network.d_input to {data.width}"
            )
        if stage == "fit":
            self._prepare_fit(data)
        elif self.context is None:
            self.context = data.context
        elif self.context.frame is not None:
            data.start_at(self.context.frame)

    def _prepare_fit(self, data: MinisetDataModule) -> None:
        """Take the context of the data, refuse what cannot be meant, pretrain the gate."""
        if self.gate is None and (walk := data.settings.gate_walk) != "one_step":
            raise UserError(f"gate_walk={walk} teaches a gate; graph={self.graph} has none")
        if self.export is not None:
            check_completable(data.train, data.val, self._draws_on(data))
        frame = None
        if self.common_frame:
            frame, data.train = cross_fit(data.train)
            data.start_at(frame)
        # Layouts on the true graph are averaged with nothing, but points start in it there, too.
        used = self.graph != "true" or isinstance(self.model, IPAPointsModel)
        self.context = replace(data.context, frame=frame if used else None)
        # A resumed run restores the gate from its checkpoint right after this.
        steps = 0 if self.trainer.ckpt_path is not None else self.schedule.gate_steps
        if self.gate is not None and steps > 0:
            rates = self.schedule.lr, self.schedule.weight_decay
            device = self.trainer.strategy.root_device
            self.gate_history = pretrain_gate(
                self.gate, data.train_dataset(), steps, *rates, device=device
            )

    def on_fit_start(self) -> None:
        for step, value in enumerate(self.gate_history):
            for logger in self.loggers:
                logger.log_metrics({"gate_pretraining/kl": value}, step=step)

    def _draws_on(self, data: MinisetDataModule) -> int:
        """Layouts per validation slide for error radii at the end of a fit; 0 for none."""
        return self.calibration_draws if data.val and self.graph != "true" else 0

    def _complete_export(self, checkpoint: dict[str, Any]) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, MinisetDataModule):
            draws = self._draws_on(data)
            complete_checkpoint(checkpoint, self.model, self.gate, data.train, data.val, draws)

    def placer(self) -> Placer:
        """Gate, network and context for placing new cells; the weights are shared, not copied.

        Raises:
            ValueError: if the model needs coordinates, or has no context.
        """
        if self.graph == "true":
            raise UserError("a model trained with graph=true needs coordinates and places no cells")
        if self.context is None:
            raise UserError("the module has no placement context; load it from a checkpoint")
        return Placer(self.model, self.gate, self.context)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.context is not None:
            checkpoint["placement_context"] = self.context.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        resumed = self.context is not None and self.trainer.state.fn == TrainerFn.FITTING
        epochs = self.trainer.max_epochs if resumed else None
        self.context = context_of(checkpoint, self.context, epochs)
        frame = None if self.context is None else self.context.frame
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, MinisetDataModule) and frame is not None:
            data.start_at(frame)

    def forward(
        self, batch: Miniset, mode: GraphMode | None = None
    ) -> tuple[Layout, EdgeList, Tensor | None]:
        """Layout of a batch on the graph of ``mode`` (default: its own), edges and gate."""
        mode = mode or self.graph
        edges = batch.target.edges if mode == "true" else batch.candidates
        gate = self.gate(batch.h, edges) if mode == "gated" and self.gate is not None else None
        graphs = batch.target.graph, batch.num_graphs
        layout = self.model(batch.h, edges, gate, *graphs, batch.start_noise, batch.start)
        return layout, edges, gate

    def weights_now(self) -> LossWeights:
        """The loss weights of the current epoch: that of the walks ramps."""
        rw = linear_ramp(self.current_epoch, 0, self.schedule.ramp_epochs, self.weights.rw)
        return replace(self.weights, rw=rw)

    def training_step(self, batch: Miniset, batch_idx: int) -> Tensor:
        layout, edges, gate = self(batch)
        weights = self.weights_now()
        terms = geometry_terms(layout.x, batch.target, with_rw=weights.rw > 0)
        loss = terms.loss(weights)
        if gate is not None:
            gate_kl = loss_gate(gate, edges, batch.wanted, batch.target).mean()
            loss = loss + weights.gate * gate_kl
            self.log("train/gate_kl", gate_kl, batch_size=batch.num_graphs)
        self.log("train/loss", loss, batch_size=batch.num_graphs, prog_bar=True)
        for name, values in terms.values.items():
            self.log(f"train/{name}", values.mean(), batch_size=batch.num_graphs)
        self.log("train/w_rw", weights.rw, batch_size=batch.num_graphs)
        return loss

    def validation_step(self, batch: Miniset, batch_idx: int) -> None:
        scores, health, passed = self._scores(batch)
        values = {f"val/{name}": value for name, value in scores.items()}
        # The walk weight that the epoch just trained with decides whether it may be selected; the
        # weights that `lightning validate` looks at are what they are.
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        if not fitting or (
            not self.trainer.sanity_checking
            and ramp_reached(self.current_epoch, 0, self.schedule.ramp_epochs)
        ):
            values[MONITOR] = values["val/e_geo_own_graph"]
        self.log_dict(values | health, batch_size=batch.num_graphs, sync_dist=True)
        if batch_idx == 0 and shows_figures(self.trainer):
            self._show(batch, *passed)

    def _show(self, batch: Miniset, layout: Layout, edges: EdgeList, gate: Tensor | None) -> None:
        """Log figures of the first graph of a validation batch."""
        log_layout(self.trainer, batch.target, layout.x)
        graphs = batch.target.graph, batch.num_graphs
        attention = self.model.attention(layout, edges, gate, *graphs)
        name = f"validation, epoch {self.current_epoch}"
        log_trace(self.trainer, first_graph(name, batch, layout, edges, attention))

    def test_step(self, batch: Miniset, batch_idx: int) -> None:
        scores, health, _ = self._scores(batch)
        scores["e_geo"] = scores["e_geo_own_graph"]
        values = {f"test/{name}": value for name, value in scores.items()}
        self.log_dict(values | health, batch_size=batch.num_graphs, sync_dist=True)

    def _scores(
        self, batch: Miniset
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], tuple[Layout, EdgeList, Tensor | None]]:
        """Scores of the layouts of a batch by name, its ``health/...`` checks, and its forward."""
        layout, edges, gate = passed = self(batch)
        terms = geometry_terms(layout.x, batch.target)
        true_layout, _, _ = self(batch, mode="true")
        scores = {
            "e_geo_own_graph": terms.e_geo.mean(),
            "rw": terms["rw"].mean(),
            "stress": terms["stress"].mean(),
            "e_geo_true_graph": geometry_terms(true_layout.x, batch.target).e_geo.mean(),
        }
        if gate is not None:
            scores["gate_kl"] = loss_gate(gate, edges, batch.wanted, batch.target).mean()
        checks = health_checks(self.model, batch, layout, edges, gate)
        return scores, {f"health/{name}": value for name, value in checks.items()}, passed

    def predict_step(self, request: PredictionRequest, batch_idx: int) -> dict[str, str]:
        """Place the cells of one file and write the result, on rank zero."""
        return request.run(self.placer(), write=self.trainer.is_global_zero)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        s, epochs = self.schedule, self.trainer.max_epochs
        data = getattr(self.trainer, "datamodule", None)
        assert epochs is not None, "checked in setup"
        assert isinstance(data, MinisetDataModule), "checked in setup"
        lr, final = s.lr * data.rate_factor, s.lr_final * data.rate_factor
        optimizer = torch.optim.AdamW(self.parameters(), lr, weight_decay=s.weight_decay)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, final)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay}}

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        return batch.to(device) if isinstance(batch, Miniset) else batch
