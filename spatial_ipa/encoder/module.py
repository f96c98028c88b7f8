"""Training of the expression encoder.

With start.kind=eigenmaps the trunk is a kernel regression in closed form
(:mod:`spatial_ipa.encoder.eigenmaps`).  It stays as it is: without scRNA-seq there is nothing to
train, whatever ``trainer.max_epochs`` says, and with scRNA-seq the adapter in front of it is
trained with the alignment terms below.

Otherwise the trunk is an MLP that starts as a linear map fitted to the training slides, spatial PCA
(:mod:`spatial_ipa.encoder.spatial_pca`) or plain PCA, or at random.  It is then trained with

    w_vicreg VICReg(p(h_1), p(h_2)) + w_neighbours KL_spatial(g(h)) + w_stress log-stress(g(h))
    + w_coral CORAL + w_mmd MMD + w_scrna MMD(slides, scRNA-seq)
    + w_adversary CE(domain | reversed h) + w_anchor mean (h - h_0)^2

(:mod:`spatial_ipa.encoder.losses`), where p and g are heads that are thrown away, alignment is
between the domains of a step, and h_0 is what the trunk computed at the start.  The term of w_scrna
moves cells towards spots, not spots towards cells.  A weight of 0 removes a term and its head.

With a selection slide, the weights kept are those of the epoch with the best recall of its spatial
neighbours among the kNN in H, the starting weights included.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from common.errors import UserError
from common.files.outputs import prepare_output
from common.rng import generator_for
from common.training.checks import check_fit, check_strategy
from common.training.hyperparameters import make_plain
from common.training.memory import steady_memory
from common.training.resuming import exact_resume
from spatial_ipa.data.expression import Expression
from spatial_ipa.encoder.datamodule import EncoderDataModule
from spatial_ipa.encoder.eigenmaps import fit_eigenmaps
from spatial_ipa.encoder.frozen import FrozenEncoder, Trunk, keep_other, save_encoder, trunk_of
from spatial_ipa.encoder.kernel_trunk import KernelTrunk
from spatial_ipa.encoder.losses import sampled_mixing
from spatial_ipa.encoder.network import ScRNAAdapter, SharedEncoder
from spatial_ipa.encoder.objective import Layers, embed_rows, identity, mlp, unit_scale
from spatial_ipa.encoder.selection import expect_no_training, tissue_recall
from spatial_ipa.encoder.settings import EncoderWeights, StartSettings, TrunkSettings
from spatial_ipa.encoder.starts import linear_start
from spatial_ipa.encoder.views import DomainBatch


class EncoderModule(pl.LightningModule):
    """Trunk and adapter under the sum of terms of the module docstring.

    Args:
        output: file the frozen encoder is written to when the fit ends.
        start: what the trunk computes before training.
        trunk: size of the trunk; of eigenmaps only ``d_out`` counts.
        weights: of the loss terms.
        tau: temperature of the neighbourhoods.
        optimizer: called with the parameters.
        first_layer_lr: learning rate of the gene layer, which holds most weights; 0 keeps it as it
            starts (not with start.kind=random).
        seed: of the initial weights.

    Example:
        >>> import spatial_ipa
        >>> module = spatial_ipa.EncoderModule("encoder.pt", seed=1)
        >>> module.weights.vicreg
        1.0
    """

    def __init__(
        self,
        output: str,
        start: StartSettings = StartSettings(),
        trunk: TrunkSettings = TrunkSettings(),
        weights: EncoderWeights = EncoderWeights(),
        tau: float = 0.25,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        first_layer_lr: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        limit = trunk.start_width
        if start.kind == "spatial" and start.rank < limit:
            raise UserError(
                f"start.rank must be at least {limit}, the width of the start; got {start.rank}"
            )
        if start.kind == "random" and first_layer_lr == 0:
            raise UserError("start.kind=random needs first_layer_lr > 0: the gene layer must learn")
        if start.kind == "random" and weights.anchor > 0:
            raise UserError(
                "start.kind=random has nothing to be anchored to; set weights.anchor to 0"
            )
        if first_layer_lr < 0:
            raise UserError(f"first_layer_lr must not be negative, got {first_layer_lr}")
        # A checkpoint holds plain types only; the optimizer comes from the configuration, and so
        # does the output: a checkpoint must not bring back the path of an earlier run.
        self.save_hyperparameters(ignore=["optimizer", "output"])
        make_plain(self)
        self.output, self.start, self.trunk, self.weights = Path(output), start, trunk, weights
        self.tau, self.optimizer = tau, optimizer
        self.first_layer_lr, self.seed = first_layer_lr, seed
        self.encoder: Trunk | None = None
        self.adapter: ScRNAAdapter | None = None
        self.anchor: Tensor
        self.best_score, self.best_state = -1.0, dict[str, Tensor]()

    @property
    def data(self) -> EncoderDataModule:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, EncoderDataModule):
            raise UserError(f"EncoderModule needs an EncoderDataModule, got {type(data).__name__}")
        return data

    def configure_callbacks(self) -> list[pl.Callback]:
        check_strategy(self)
        return [*exact_resume(self.trainer), *steady_memory(self.trainer)]

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        check_fit(self, EncoderDataModule)
        prepare_output(self.output, "model.output")
        if self._closed_form:
            expect_no_training(self.trainer, self.data)
            return
        acting = {
            f"weights.{name}": value
            for name, value in vars(self.weights).items()
            if name != "scrna" or self.data.scrna
        }
        if self.trainer.max_epochs != 0 and not any(acting.values()):
            raise UserError(
                f"{', '.join(acting)} are all 0, so there is nothing to train; set one of "
                "them, or trainer.max_epochs to 0 to write the start"
            )

    @property
    def _closed_form(self) -> bool:
        return self.start.kind == "eigenmaps"

    def configure_model(self) -> None:
        """Build the layers, now that the genes are known, and give the trunk its start."""
        if self.encoder is None:
            # Lightning calls this with the accelerator as default device, but weights are drawn
            # from CPU generators, the same on every machine.  It moves the module afterwards.
            with torch.device("cpu"):
                self._build(generator_for(self.seed, 0))

    def _build(self, generator: torch.Generator) -> None:
        data = self.data
        trunk, w = self.trunk, self.weights
        num_genes, d = len(data.panel), trunk.d_out
        expression = data.expression()
        coordinates = [s.xy for s in data.fit_slides if s.xy is not None]
        if self._closed_form:
            self.encoder = fit_eigenmaps(expression, coordinates, self.start, d, self.seed)
        else:
            encoder = SharedEncoder(num_genes, d, trunk.hidden, trunk.dropout, generator)
            if self.start.kind != "random":
                width = trunk.start_width
                components = linear_start(expression, coordinates, self.start, width, self.seed)
                encoder.set_linear(components, generator)
                if w.anchor:
                    anchor = F.pad(components, (0, d - components.shape[1]))
                    self.register_buffer("anchor", anchor, persistent=False)
            encoder.out_scale.fill_(unit_scale(encoder, expression))
            encoder.first.requires_grad_(self.first_layer_lr > 0)
            self.encoder = encoder
        if data.scrna:
            if not (w.coral or w.mmd or w.scrna or w.adversary):
                raise UserError(
                    "scrna is given, but the weights coral, mmd, scrna and adversary are all 0: "
                    "the adapter would learn nothing. Set one of them, or leave scrna out"
                )
            self.adapter = ScRNAAdapter(num_genes, generator=generator)
        # Heads see H through layers of their own, so that H itself keeps its spectrum.
        trained = not self._closed_form
        self.expander = mlp(d, 2 * d, 2 * d, generator) if w.vicreg and trained else None
        self.locator = identity(d) if (w.neighbours or w.stress) and trained else None
        domains = len(data.fit_slides) + len(data.seen_heldout) + len(data.scrna)
        aligned = trained or self.adapter is not None
        self.critic = mlp(d, d, domains, generator) if w.adversary and aligned else None

    def training_step(self, batch: list[DomainBatch], batch_idx: int) -> Tensor:
        # Dropout of this step: a function of (seed, step, rank), so that a resumed run repeats it.
        draws = generator_for(self.seed, 1, self.global_step, self.global_rank)
        assert self.encoder is not None
        layers = Layers(self.encoder, self.adapter, self.expander, self.locator, self.critic)
        anchor = self.anchor if self.weights.anchor and not self._closed_form else None
        terms = layers.terms(batch, self.weights, self.tau, anchor, draws)
        loss = torch.stack(
            [getattr(self.weights, name) * term for name, term in terms.items()]
        ).sum()
        self.log("train/loss", loss, batch_size=1, prog_bar=True)
        for name, term in terms.items():
            self.log(f"train/{name}", term.detach(), batch_size=1)
        return loss

    def on_train_start(self) -> None:
        if not self.best_state:  # not resumed: the start is a candidate too
            self._keep_if_best()

    def on_train_epoch_end(self) -> None:
        for name, value in self._keep_if_best().items():
            # Every process has all slides, so the values agree and nothing is to be reduced.
            self.log(name, value, batch_size=1, rank_zero_only=False)

    @torch.no_grad()
    def _keep_if_best(self) -> dict[str, float]:
        """Score the weights as they are; remember them if the selection slide says so."""
        assert self.encoder is not None
        data, scores = self.data, dict[str, float]()
        if self._closed_form:  # slides are where they were
            return scores
        sampled = [
            embed_rows(self.encoder, Expression.of_slide(s, data.panel, data.genes.normalisation))
            for s in data.fit_slides
        ]
        if len(sampled) > 1:
            scores["val/mixing"] = sampled_mixing(sampled)
        slide = data.selection
        if slide is not None and slide.xy is not None:
            recall = tissue_recall(
                embed_rows(
                    self.encoder, Expression.of_slide(slide, data.panel, data.genes.normalisation)
                ),
                slide.xy,
            )
            scores["val/recall"] = recall
            if recall > self.best_score:
                self.best_score = recall
                self.best_state = {
                    f"{part}.{k}": v.detach().cpu().clone()
                    for part in ("encoder", "adapter")
                    if (module := getattr(self, part)) is not None
                    for k, v in module.state_dict().items()
                }
        return scores

    @torch.no_grad()
    def frozen(self) -> FrozenEncoder:
        """The encoder as it would be written now, with its best weights."""
        assert self.encoder is not None
        data = self.data

        def weights(part: str, source: Trunk | ScRNAAdapter) -> dict[str, Tensor]:
            found = {
                k.removeprefix(part): v for k, v in self.best_state.items() if k.startswith(part)
            }
            return found or source.state_dict()

        encoder, adapter = trunk_of(weights("encoder.", self.encoder)), None
        if self.adapter is not None:
            adapter = ScRNAAdapter(len(data.panel))
            adapter.load_state_dict(weights("adapter.", self.adapter))
        # Without training, or with the start chosen by the selection slide, it aligns nothing.
        if adapter is not None and adapter.is_identity:
            adapter = None
        return FrozenEncoder(encoder, adapter, data.panel, data.split, data.genes.normalisation)

    def on_fit_end(self) -> None:
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            new = self.frozen()
            kept = keep_other(new, self.output)
            if kept is not None:
                rank_zero_info(f"{self.output} of an earlier fit is kept as {kept}")
            save_encoder(new, self.output)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["best_encoder"] = {"score": self.best_score, "state": self.best_state}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        best = checkpoint["best_encoder"]
        self.best_score, self.best_state = best["score"], best["state"]

    def configure_optimizers(self) -> torch.optim.Optimizer | list[torch.optim.Optimizer]:
        assert self.encoder is not None
        if isinstance(self.encoder, KernelTrunk):
            rest = [p for p in self.parameters() if p.requires_grad]
            return self.optimizer(rest) if rest else []
        first = list(self.encoder.first.parameters())
        others = [
            p for p in self.parameters() if p.requires_grad and all(p is not f for f in first)
        ]
        groups: list[dict[str, Any]] = [{"params": others}]
        if self.first_layer_lr > 0:
            groups.append({"params": first, "lr": self.first_layer_lr})
        return self.optimizer(groups)

    def transfer_batch_to_device(
        self, batch: list[DomainBatch], device: torch.device, dataloader_idx: int
    ) -> list[DomainBatch]:
        return [part.to(device) for part in batch]
