"""Training of gate and model together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from common.errors import UserError
from common.files.identity import tensor_hash
from common.files.outputs import prepare_output
from common.graph.edges import EdgeList
from common.graph.knn import knn_edges
from common.report.resources import Stopwatch
from common.sparse import edge_softmax
from common.training.schedules import linear_ramp, ramp_reached
from spatial_ipa.confidence.calibration import calibrate_slides, check_slides
from spatial_ipa.confidence.reference_cells import ReferenceCells
from spatial_ipa.data.slide import Slide
from spatial_ipa.encoder.frozen import EmbeddingKind
from spatial_ipa.layout.frame_regression import FrameRegression
from spatial_ipa.layout.placement import Placement, place_stitched, place_whole, towards_outline
from spatial_ipa.model.block import DistanceTerm
from spatial_ipa.model.diagnostics import health_checks
from spatial_ipa.model.gate import EdgeGateSoft
from spatial_ipa.model.losses import geometry_terms, loss_gate
from spatial_ipa.model.minisets import EmbeddedSlide, Miniset
from spatial_ipa.model.network import IPALiteModel, Layout
from spatial_ipa.placing.command import (
    CellPrediction,
    InferenceMode,
    PlacementOptions,
    PredictionRequest,
    as_numpy,
    graph_matrix,
    provenance,
    write_prediction_file,
)
from spatial_ipa.placing.judge import check_options, judge_cells
from spatial_ipa.training.datamodule import MinisetDataModule, PlacementContext
from spatial_ipa.training.export import MONITOR, export_checkpoint
from spatial_ipa.training.gate_pretraining import pretrain_gate

GraphMode = Literal["gated", "candidates", "true"]
LAMBDA_GATE = 0.05


class SpatialIPAModule(pl.LightningModule):
    """IPALiteModel and EdgeGateSoft under the ramped energy

        w_rw L_RW + 0.1 L_stress + 0.01 L_rep + 0.01 L_ent + 0.05 L_gate + w_p L_procrustes.

    Epoch 0 has w_rw = 0; it then ramps over ``ramp_epochs`` to ``rw_cap``.  The monitored
    ``val/e_geo`` is logged from the first epoch at the cap, so that checkpoints and early stopping
    cannot look at epochs before.  ``val/h_gate`` and ``val/t`` are E_geo on the model's own graph
    and on the true spatial graph, every epoch.  ``lightning validate`` logs all three, and
    ``lightning test`` the same as ``test/...``, on the validation slides.

    Before the first epoch the gate alone is trained on its KL for ``gate_steps`` steps, by each
    rank on its own device from the same draws; DDP then starts all ranks from rank 0's weights.

    Args:
        d_input: width of the embeddings.
        c_s: width of the states.
        heads: attention heads.
        c_head: width of a head.
        recycles: passes through the shared block.
        noise_std: noise on the initial coordinates in training.
        beta: weight of the gate logits in the attention.
        distance_term: see :class:`~spatial_ipa.model.block.IPALiteBlock`.
        graph: ``gated``: candidate graph with gate (the method).  ``candidates``: candidate graph,
            no gate.  ``true``: the true spatial graph, no gate; a ceiling, not usable on new cells.
        gate_steps: steps of gate pretraining.
        lr: learning rate of AdamW.
        lr_final: end of the cosine decay over ``trainer.max_epochs``.
        weight_decay: of AdamW.
        rw_cap: final weight of the random-walk term.
        ramp_epochs: epochs from 0 to the cap; with 0 epoch 1 is the first at the cap.
        w_procrustes: w_p, weight of the squared Procrustes RMSE.  Off as published; 0.1 lowers the
            RMSE of some tissues, raises E_geo and harms others
            (``benchmarks/reports/spatial_experiments.md``).
        common_frame: average layouts with regression in the common frame of the training slides
            (:mod:`spatial_ipa.layout.frame_regression`).  Set it false where these are unrelated
            tissues.
        export: copy the selected checkpoint (best by the monitor, else the last epoch) to this
            file when the fit ends; null for none.
        calibration_draws: layouts per validation slide from which the export's error radii are
            calibrated (:mod:`spatial_ipa.confidence.calibration`); radii are given to predictions
            of as many draws or more; 0 for no radii.
    """

    def __init__(
        self,
        d_input: int = 128,
        c_s: int = 96,
        heads: int = 4,
        c_head: int = 32,
        recycles: int = 5,
        noise_std: float = 0.05,
        beta: float = 2.0,
        distance_term: DistanceTerm = "none",
        graph: GraphMode = "gated",
        gate_steps: int = 500,
        lr: float = 5e-4,
        lr_final: float = 1e-5,
        weight_decay: float = 5e-4,
        rw_cap: float = 0.3,
        ramp_epochs: int = 6,
        w_procrustes: float = 0.0,
        common_frame: bool = True,
        export: str | None = None,
        calibration_draws: int = 16,
    ) -> None:
        super().__init__()
        if graph not in ("gated", "candidates", "true"):
            raise UserError(f"graph must be gated, candidates or true, got {graph!r}")
        if graph != "true" and distance_term == "monotone":
            raise UserError(
                "distance_term=monotone is for graph=true only: on candidate graphs it pulls "
                "wrong neighbours together (E_geo +0.20); use rbf or none"
            )
        if w_procrustes < 0:
            raise UserError(f"w_procrustes must not be negative, got {w_procrustes}")
        if ramp_epochs < 0:
            raise UserError(f"ramp_epochs must not be negative, got {ramp_epochs}")
        if calibration_draws < 0 or calibration_draws == 1:
            raise UserError(f"calibration_draws must be 0 or at least 2, got {calibration_draws}")
        # Not the export: a checkpoint must not bring back the path of an earlier run.
        self.save_hyperparameters(ignore=["export", "calibration_draws"])
        self.model = IPALiteModel(
            d_input, c_s, heads, c_head, recycles, noise_std, beta, distance_term
        )
        # Where it is not used the gate must not exist: DDP refuses parameters without gradient.
        self.gate = EdgeGateSoft(d_input) if graph == "gated" else None
        self.graph: GraphMode = graph
        self.gate_steps, self.lr, self.lr_final = gate_steps, lr, lr_final
        self.weight_decay, self.rw_cap, self.ramp_epochs = weight_decay, rw_cap, ramp_epochs
        self.w_procrustes, self.common_frame = w_procrustes, common_frame
        self.export = None if export is None else Path(export)
        self.calibration_draws = calibration_draws
        self.context: PlacementContext | None = None

    def check_settings(self) -> None:
        """Refuse settings that a fit under the current trainer could not end with.

        Raises:
            ValueError: on the number of epochs, of recycles, or the place of the export.
        """
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise UserError(
                "trainer.max_epochs must be set, to at least 1: the cosine decay runs over it"
            )
        if self.model.recycles < 2 and self.trainer.world_size > 1:
            raise UserError(
                "model.init_args.recycles must be at least 2 on several processes: one pass leaves "
                "the state update without gradient, which DDP refuses"
            )
        if self.export is not None:
            prepare_output(self.export, "model.export")

    def setup(self, stage: str) -> None:
        self.check_settings()
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, MinisetDataModule):
            return
        if data.width != self.model.to_start[0].in_features:
            raise UserError(
                f"model.d_input is {self.model.to_start[0].in_features}, but the embeddings "
                f"are {data.width} wide; set model.init_args.d_input to {data.width}"
            )
        kept, self.context = self.context, data.context
        if stage == "fit" and self.export is not None:
            # What could not be judged in the end is refused before anything is trained.
            ReferenceCells.sample(data.train)
            if self.calibrates_on(data):
                check_slides(data.train, data.val)
        if stage == "fit":
            if self.common_frame and self.graph != "true":
                self.context = replace(self.context, frame=FrameRegression.fit(data.train))
        elif kept is not None:  # what a fit has left is not the data module's to know
            self.context = replace(
                self.context,
                frame=kept.frame,
                reference=kept.reference,
                calibration=kept.calibration,
            )
        # A resumed run restores the gate from its checkpoint right after this.
        resumes = self.trainer.ckpt_path is not None
        if stage == "fit" and self.gate is not None and self.gate_steps > 0 and not resumes:
            # Lightning moves the module to its device later only.
            home = self.gate.w1.device
            self.gate.to(self.trainer.strategy.root_device)
            self.gate_history = pretrain_gate(
                self.gate, data.train_dataset(), self.gate_steps, self.lr, self.weight_decay
            )
            self.gate.to(home)

    def on_fit_start(self) -> None:
        for step, value in enumerate(getattr(self, "gate_history", [])):
            for logger in self.loggers:
                logger.log_metrics({"gate_pretraining/kl": value}, step=step)
        if self.context is not None:  # those of a checkpoint are of other weights
            self.context = replace(self.context, reference=None, calibration=None)

    def on_fit_end(self) -> None:
        if self.export is None or getattr(self.trainer, "fast_dev_run", False):
            return
        export_checkpoint(self, self.export)

    def calibrates_on(self, data: MinisetDataModule) -> bool:
        """Whether the end of a fit on ``data`` gives error radii."""
        return bool(data.val) and self.calibration_draws > 0 and self.graph != "true"

    def calibrate(
        self, train: Sequence[EmbeddedSlide], val: Sequence[EmbeddedSlide], num_draws: int = 16
    ) -> None:
        """Put error radii from validation slides into the context; see
        `spatial_ipa.confidence.calibration`.

        Args:
            train: slides of the training.
            val: slides with coordinates that were not trained on.
            num_draws: draws per placement.

        Raises:
            ValueError: without placement context, on too few cells, or a slide in both lists.
        """
        if self.context is None:
            raise UserError("the module has no placement context; load it from a checkpoint")

        def place(h: np.ndarray) -> Placement:
            return self.place(torch.from_numpy(np.array(h)).to(self.device), "auto", num_draws)

        reference, calibration = calibrate_slides(train, val, place, num_draws)
        self.context = replace(self.context, reference=reference, calibration=calibration)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.context is not None:
            checkpoint["placement_context"] = self.context.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "placement_context" not in checkpoint:
            return
        saved = PlacementContext.from_state(checkpoint["placement_context"])
        differences = [] if self.context is None else saved.differences(self.context)
        if differences:
            raise UserError(
                "this checkpoint was trained on embeddings of another encoder, or on minisets "
                f"drawn otherwise, than the data module's: {'; '.join(differences)}. Give "
                "data.init_args.encoder and data.init_args.minisets of that training, or train "
                "anew without --ckpt_path"
            )
        if self.context is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._check_decay(checkpoint)
            # The frame follows from the training slides and `common_frame`, resumed or not.
            saved = replace(saved, frame=self.context.frame)
        self.context = saved

    def _check_decay(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume with other epochs: beyond its end the cosine rises again."""
        for schedule in checkpoint.get("lr_schedulers", ()):
            if schedule["T_max"] != self.trainer.max_epochs:
                raise UserError(
                    f"the learning rate of this checkpoint decays over {schedule['T_max']} epochs, "
                    f"and trainer.max_epochs is {self.trainer.max_epochs}; resume it with "
                    f"{schedule['T_max']}, or train anew without --ckpt_path"
                )

    def forward(
        self, batch: Miniset, mode: GraphMode | None = None
    ) -> tuple[Layout, EdgeList, Tensor | None]:
        """Layout of a batch on the graph of ``mode`` (default: its own), edges and gate."""
        mode = mode or self.graph
        edges = batch.target.edges if mode == "true" else batch.candidates
        gate = self.gate(batch.h, edges) if mode == "gated" and self.gate is not None else None
        layout = self.model(
            batch.h, edges, gate, batch.target.graph, batch.num_graphs, batch.start_noise
        )
        return layout, edges, gate

    def rw_weight(self) -> float:
        return linear_ramp(self.current_epoch, 0, self.ramp_epochs, self.rw_cap)

    def training_step(self, batch: Miniset, batch_idx: int) -> Tensor:
        layout, edges, gate = self(batch)
        w_rw = self.rw_weight()
        terms = geometry_terms(layout.x, batch.target, with_rw=w_rw > 0)
        loss = terms.energy(w_rw).mean() + self.w_procrustes * terms.procrustes.mean()
        if gate is not None:
            gate_kl = loss_gate(gate, edges, batch.wanted, batch.target).mean()
            loss = loss + LAMBDA_GATE * gate_kl
            self.log("train/gate_kl", gate_kl, batch_size=batch.num_graphs)
        self.log("train/loss", loss, batch_size=batch.num_graphs, prog_bar=True)
        self.log("train/rw", terms.rw.mean(), batch_size=batch.num_graphs)
        self.log("train/stress", terms.stress.mean(), batch_size=batch.num_graphs)
        self.log("train/procrustes", terms.procrustes.mean(), batch_size=batch.num_graphs)
        self.log("train/w_rw", w_rw, batch_size=batch.num_graphs)
        return loss

    def validation_step(self, batch: Miniset, batch_idx: int) -> None:
        scores, health = self._scores(batch)
        values = {f"val/{name}": value for name, value in scores.items()}
        # The walk weight that the epoch just trained with decides whether it may be selected; the
        # weights that `lightning validate` looks at are what they are.
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        if not fitting or (
            not self.trainer.sanity_checking
            and ramp_reached(self.current_epoch, 0, self.ramp_epochs)
        ):
            values[MONITOR] = values["val/h_gate"]
        self.log_dict(values | health, batch_size=batch.num_graphs, sync_dist=True)

    def test_step(self, batch: Miniset, batch_idx: int) -> None:
        scores, health = self._scores(batch)
        values = {f"test/{name}": value for name, value in scores.items()}
        values["test/e_geo"] = values["test/h_gate"]
        self.log_dict(values | health, batch_size=batch.num_graphs, sync_dist=True)

    def _scores(self, batch: Miniset) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Scores of the layouts of a batch by name, and its ``health/...`` checks."""
        layout, edges, gate = self(batch)
        terms = geometry_terms(layout.x, batch.target)
        true_layout, _, _ = self(batch, mode="true")
        scores = {
            "h_gate": terms.e_geo.mean(),
            "rw": terms.rw.mean(),
            "stress": terms.stress.mean(),
            "t": geometry_terms(true_layout.x, batch.target).e_geo.mean(),
        }
        if gate is not None:
            scores["gate_kl"] = loss_gate(gate, edges, batch.wanted, batch.target).mean()
        checks = health_checks(self.model, batch, layout, edges, gate)
        return scores, {f"health/{name}": value for name, value in checks.items()}

    def place(
        self,
        h: Tensor,
        inference: InferenceMode = "auto",
        num_draws: int = 16,
        seed: int = 0,
    ) -> Placement:
        """Coordinates of cells from their embeddings (n, d).

        See :mod:`spatial_ipa.layout.placement`; then, unless it is switched off,
        :mod:`spatial_ipa.layout.frame_regression`.
        """
        if self.graph == "true":
            raise UserError("a model trained with graph=true needs coordinates and places no cells")
        if self.context is None:
            raise UserError("the module has no placement context; load it from a checkpoint")
        if inference == "auto":
            inference = "whole" if h.shape[0] <= self.context.size else "stitched"

        def place_graph(
            h: Tensor, edges: EdgeList, graph: Tensor, num_graphs: int, noise: Tensor
        ) -> Tensor:
            gate = None if self.gate is None else self.gate(h, edges)
            return self.model(h, edges, gate, graph, num_graphs, noise).x

        self.eval()
        k = self.context.num_candidates
        noise_h, size, aspect = self.context.noise_h, self.context.size, self.context.aspect
        frame = self.context.frame
        if inference == "whole":
            placement = place_whole(place_graph, h, k, num_draws, seed, noise_h)
        else:
            placement = place_stitched(place_graph, h, k, num_draws, seed, noise_h, size)
        if aspect is not None:  # before the regression: it has the lower E_geo of both orders
            placement = towards_outline(placement, aspect)
        return placement if frame is None else frame.refine(placement, h.cpu().numpy(), seed)

    @torch.no_grad()
    def gate_graph(
        self, h: Tensor, approximate_above: int | None = None
    ) -> tuple[Tensor, EdgeList]:
        """Row-softmax (E,) of the gate on the candidate graph; uniform without gate.

        Args:
            h: (n, d) embeddings.
            approximate_above: cells above which the candidates are searched approximately; never
                when None.
        """
        if self.context is None:
            raise UserError("the module has no placement context; load it from a checkpoint")
        edges = knn_edges(h, self.context.num_candidates, approximate_above=approximate_above)
        logit = h.new_zeros(edges.num_edges) if self.gate is None else self.gate(h, edges)
        return edge_softmax(logit, edges), edges

    def predict_cells(
        self,
        slide: Slide,
        kind: EmbeddingKind,
        options: PlacementOptions,
        clock: Stopwatch | None = None,
    ) -> CellPrediction:
        """Embed and place one file's cells, with everything that is written about them.

        ``clock`` is given the seconds of the stages embed, place, graph and judge.
        """
        if self.context is None or self.context.encoder is None:
            raise UserError(
                "the checkpoint holds no encoder, so expression cannot be embedded; train with "
                "spatial_ipa.training.datamodule.SlideDataModule"
            )
        encoder = self.context.encoder
        clock = Stopwatch() if clock is None else clock
        adapted = kind == "scrna" and encoder.adapter is not None
        if kind == "scrna" and not adapted:
            rank_zero_warn(
                "the encoder was trained without dissociated cells (data.init_args.scrna), or not "
                "beyond its start: these are embedded as if they were spots, and nothing aligns "
                "them with the slides"
            )
        with clock.stage("embed"):
            placed = encoder.has_counts(slide)
            if placed.sum() < 2:
                raise UserError(
                    f"{slide.name}: {placed.sum()} of {len(slide)} cells have counts on the "
                    f"encoder's {len(encoder.panel)} genes; at least 2 are needed"
                )
            h = torch.from_numpy(np.array(encoder.embed(slide, kind))[placed]).to(self.device)
        check_options(self.context, h.cpu().numpy(), options)
        with clock.stage("place"):
            placement = self.place(h, options.inference, options.num_draws, options.seed)
        with clock.stage("judge"):
            columns, judged = judge_cells(self.context, h.cpu().numpy(), placement, options)
        graph = None
        if options.write_graph:
            with clock.stage("graph"):
                graph = graph_matrix(*self.gate_graph(h, options.approximate_above))
        used = {name: value for name, value in asdict(options).items() if value is not None}
        prediction = CellPrediction(
            as_numpy(placement.xy),
            as_numpy(placement.spread),
            np.zeros(len(h), dtype=bool),
            graph,
            provenance(
                encoder=encoder.weights_hash,
                model=self.weights_hash(),
                input=slide.expression_hash,
                seen_by_encoder=encoder.has_seen(slide),
                kind=kind,
                adapter=adapted,
                num_candidates=self.context.num_candidates,
                genes=len(encoder.panel),
                genes_missing=len(set(encoder.panel).difference(slide.genes)),
                common_frame=self.context.frame is not None,
                calibration=judged,
                **used,
            ),
            columns,
        )
        return prediction.over(placed)

    def weights_hash(self) -> str:
        """SHA-256 of the parameters of gate and model."""
        return tensor_hash(self.state_dict())

    def predict_step(self, request: PredictionRequest, batch_idx: int) -> dict[str, str]:
        """Place the cells of one file and write the result, on rank zero."""
        clock = request.clock
        prediction = self.predict_cells(request.slide, request.kind, request.options, clock)
        if self.trainer.is_global_zero:
            with clock.stage("write"):
                write_prediction_file(
                    prediction, request.path_in, request.path_out, request.overwrite
                )
            print(f"{clock.table()}\nwrote {request.path_out}", flush=True)
        return {"output": str(request.path_out)}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        epochs = self.trainer.max_epochs
        assert epochs is not None, "checked in setup"
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=epochs, eta_min=self.lr_final
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule}}

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        return batch.to(device) if isinstance(batch, Miniset) else batch
