"""Training of gate and model together (spec §6)."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from common.edges import EdgeList
from common.schedules import linear_ramp
from spatial_ipa.diagnostics import health_checks
from spatial_ipa.gate import EdgeGateSoft
from spatial_ipa.losses import geometry_terms, loss_gate
from spatial_ipa.minisets import Miniset
from spatial_ipa.model import IPALiteModel, Layout

GraphMode = Literal["gated", "candidates", "true"]
LAMBDA_GATE = 0.05


class SpatialIPAModule(pl.LightningModule):
    """IPALiteModel and EdgeGateSoft under the ramped energy

        w_rw L_RW + 0.1 L_stress + 0.01 L_rep + 0.01 L_ent + 0.05 L_gate.

    Epoch 0 has w_rw = 0; it then ramps over ``ramp_epochs`` to ``rw_cap``.  The monitored
    ``val/e_geo`` is logged from the first epoch at the cap, so that checkpoints and early stopping
    cannot look at epochs before.  ``val/h_gate`` and ``val/t`` are E_geo on the model's own graph
    and on the true spatial graph, every epoch.

    Args:
        model: the network.
        gate: the edge gate; its ``d_input`` must be the model's.
        graph: ``gated``: candidate graph with gate (the method).  ``candidates``: candidate graph,
            no gate.  ``true``: the true spatial graph, no gate; a ceiling, not usable on new cells.
        optimizer: called with the parameters.
        lr_final: end of the cosine decay over ``trainer.max_epochs``.
        rw_cap: final weight of the random-walk term.
        ramp_epochs: epochs from 0 to the cap.
    """

    def __init__(
        self,
        model: IPALiteModel,
        gate: EdgeGateSoft,
        graph: GraphMode = "gated",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_final: float = 1e-5,
        rw_cap: float = 0.3,
        ramp_epochs: int = 6,
    ) -> None:
        super().__init__()
        if graph != "true" and model.block.distance_term == "monotone":
            raise ValueError(
                "distance_term=monotone is for graph=true only: on candidate graphs it pulls "
                "wrong neighbours together (E_geo +0.20); use rbf or none"
            )
        if model.to_start[0].in_features * 4 != gate.w1.shape[1]:
            raise ValueError(
                f"gate.d_input is {gate.w1.shape[1] // 4} but model.d_input is "
                f"{model.to_start[0].in_features}; they must agree"
            )
        self.save_hyperparameters(ignore=["model", "gate"])
        self.model = model
        # Without its use the gate must not exist: DDP refuses parameters that get no gradient.
        self.gate: nn.Module | None = gate if graph == "gated" else None
        self.graph: GraphMode = graph
        self.optimizer = optimizer
        self.lr_final, self.rw_cap, self.ramp_epochs = lr_final, rw_cap, ramp_epochs

    def forward(
        self, batch: Miniset, mode: GraphMode | None = None
    ) -> tuple[Layout, EdgeList, Tensor | None]:
        """Layout of a batch on the graph of ``mode`` (default: the module's), its edges and gate."""
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
        loss = terms.energy(w_rw).mean()
        if gate is not None:
            gate_kl = loss_gate(gate, edges, batch.wanted, batch.target).mean()
            loss = loss + LAMBDA_GATE * gate_kl
            self.log("train/gate_kl", gate_kl, batch_size=batch.num_graphs)
        self.log("train/loss", loss, batch_size=batch.num_graphs, prog_bar=True)
        self.log("train/rw", terms.rw.mean(), batch_size=batch.num_graphs)
        self.log("train/stress", terms.stress.mean(), batch_size=batch.num_graphs)
        self.log("train/w_rw", w_rw, batch_size=batch.num_graphs)
        return loss

    def validation_step(self, batch: Miniset, batch_idx: int) -> None:
        layout, edges, gate = self(batch)
        terms = geometry_terms(layout.x, batch.target)
        values = {
            "val/h_gate": terms.e_geo.mean(),
            "val/rw": terms.rw.mean(),
            "val/stress": terms.stress.mean(),
        }
        true_layout, _, _ = self(batch, mode="true")
        values["val/t"] = geometry_terms(true_layout.x, batch.target).e_geo.mean()
        if gate is not None:
            values["val/gate_kl"] = loss_gate(gate, edges, batch.wanted, batch.target).mean()
        # The walk weight that the epoch just trained with decides whether it may be selected.
        if self.current_epoch >= self.ramp_epochs and not self.trainer.sanity_checking:
            values["val/e_geo"] = values["val/h_gate"]
        checks = health_checks(self.model, batch, layout, edges, gate)
        values |= {f"health/{name}": value for name, value in checks.items()}
        self.log_dict(values, batch_size=batch.num_graphs, sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.optimizer(self.parameters())
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise ValueError("trainer.max_epochs must be set: the cosine decay runs over it")
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=epochs, eta_min=self.lr_final
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule}}

    def transfer_batch_to_device(
        self, batch: Miniset, device: torch.device, dataloader_idx: int
    ) -> Miniset:
        return batch.to(device)
