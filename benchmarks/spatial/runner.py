"""One fold with one seed: its slides, and every method of the table trained, placed and scored.

A held-out slide takes no part in anything but its own scoring: no epoch is selected, training
lengths are fixed beforehand, and the encoder is trained anew on the training slides of each fold.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bounds import Bound, BoundedData, place_bounded
from gate import gate_precision
from options import NO_STEPS, OPTIONS, Option, schedule
from shifts import Part, turned
from splits import Fold

from common.rng import generator_for
from common.training.trainer import quiet_trainer
from spatial_ipa.data.expression import normalise
from spatial_ipa.data.panels import gene_panel, reindex
from spatial_ipa.data.slide import EmbeddedSlide, Slide
from spatial_ipa.data.split import check_split
from spatial_ipa.encoder.datamodule import EncoderDataModule
from spatial_ipa.encoder.frozen import FrozenEncoder, load_encoder
from spatial_ipa.encoder.module import EncoderModule
from spatial_ipa.encoder.settings import DrawSettings, GeneSettings, StartSettings
from spatial_ipa.encoder.training_slides import embed_training
from spatial_ipa.evaluation.baselines.regression import pca_features, predict
from spatial_ipa.evaluation.oracle import minimise_slide
from spatial_ipa.evaluation.scorer import SlideScorer
from spatial_ipa.geometry.blocks import spatial_blocks
from spatial_ipa.layout.frame_fit import cross_fit
from spatial_ipa.layout.outline import towards_outline, typical_aspect
from spatial_ipa.layout.placement import Placement
from spatial_ipa.model.losses import LossWeights
from spatial_ipa.model.minisets import Augmentation, build_miniset
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.model.pair import GraphMode
from spatial_ipa.training.datamodule import MinisetDataModule
from spatial_ipa.training.module import SpatialIPAModule
from spatial_ipa.training.settings import MinisetSettings


@dataclass(frozen=True)
class Condition:
    """One row of the table."""

    features: str  # encoder, pca, noise or leaky
    graph: GraphMode
    num_candidates: int
    trained: bool = True
    bound: Bound | None = None
    option: Option | None = None  # of the settings; the command line's form when None


UNTRAINED, FRAME_ALONE = "untrained", "common frame alone"
TRIVIAL = (FRAME_ALONE, UNTRAINED)
"""What every table needs to show what learning brings."""

CONDITIONS: dict[str, Condition] = {
    "gate k=100": Condition("encoder", "gated", 100),
    "gate k=80": Condition("encoder", "gated", 80),
    "gate k=60": Condition("encoder", "gated", 60),
    "no gate k=100": Condition("encoder", "candidates", 100),
    # The network as it is drawn, without one step of it or of its gate, placed as any other.
    UNTRAINED: Condition("encoder", "gated", 100, trained=False),
    "true graph": Condition("encoder", "true", 100),
    "bound: oracle gate": Condition("encoder", "candidates", 100, bound="oracle"),
    "bound: thinned true graph": Condition("encoder", "candidates", 100, bound="thinned"),
    "PCA, gate k=100": Condition("pca", "gated", 100),
    "random embeddings": Condition("noise", "gated", 100),
    # What every later stage refuses: the encoder has seen the held-out coordinates.
    "leak audit": Condition("leaky", "gated", 100),
    **{name: Condition("encoder", o.graph, 100, option=o) for name, o in OPTIONS.items()},
}


_REGRESSORS = ("knn", "ridge", "svr", "mlp")


class _SlidesInMemory(EncoderDataModule):
    """The encoder's data from slides that are in memory, such as turned ones."""

    def __init__(
        self, train: list[Slide], heldout: list[Slide], genes: GeneSettings, seed: int
    ) -> None:
        super().__init__([], [], genes=genes, draws=DrawSettings(seed=seed))
        self.given = train, heldout

    def setup(self, stage: str) -> None:
        self.declare(*self.given)


@lru_cache(maxsize=8)  # the folds of one split share slides, and so do their seeds
def _read_part(part: Part, folder: Path) -> Slide:
    return part.read(folder)


class Runner:
    """One fold with one seed: slides, features and scorers are made once, when first needed."""

    def __init__(self, args: argparse.Namespace, fold: Fold, seed: int) -> None:
        self.args, self.fold, self.seed = args, fold, seed
        folder = Path(args.data or ".")  # a user's own slides have absolute paths
        self.train = [_read_part(part, folder) for part in fold.train]
        self.test = [_read_part(part, folder) for part in fold.test]
        if args.rotate:
            self.train = [turned(s, seed, i) for i, s in enumerate(self.train)]
        self._scorers: dict[str, SlideScorer] = {}
        self._embedded: dict[str, tuple[list[EmbeddedSlide], float]] = {}

    def scorer(self, slide: Slide) -> SlideScorer:
        # Every seed and method is scored on the same draws: seed 0.
        if slide.name not in self._scorers:
            assert slide.xy is not None
            self._scorers[slide.name] = SlideScorer(slide.xy, seed=0)
        return self._scorers[slide.name]

    def expression(self) -> list[np.ndarray]:
        slides = self.train + self.test
        panel = gene_panel(slides)
        return [normalise(reindex(s, panel)[0], logged=s.is_logged) for s in slides]

    def encoder(self, leaky: bool = False) -> FrozenEncoder:
        """Trained on the training slides; ``leaky`` also shows it the held-out ones."""
        suffix = ("_turned" if self.args.rotate else "") + ("_leaky" if leaky else "")
        kind = f"{self.args.start}_{self.args.transform}"
        path = Path(self.args.out) / "encoders" / self.args.tag / kind
        path = path / f"{self.fold.name}_{self.seed}{suffix}.pt"
        if not path.exists():
            # As configs/spatial_ipa/encoder.yaml; the class's own default rate is AdamW's.
            optimizer = partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-2)
            start = StartSettings(self.args.start)
            module = EncoderModule(str(path), start, optimizer=optimizer, seed=self.seed)
            seen = self.train + self.test if leaky else self.train
            genes = GeneSettings(transform=self.args.transform)
            data = _SlidesInMemory(seen, [] if leaky else self.test, genes, self.seed)
            quiet_trainer(self.args.encoder_epochs).fit(module, datamodule=data)
        return load_encoder(path)

    def embeddings(self, features: str) -> list[np.ndarray]:
        """(n, 128) per training and test slide, each at unit mean variance."""
        slides = self.train + self.test
        if features in ("encoder", "leaky"):
            encoder = self.encoder(leaky=features == "leaky")
            if features == "encoder":
                check_split(encoder.split, self.train, self.test)
            return [encoder.embed(s, "st") for s in slides]
        if features == "noise":
            rng = np.random.default_rng(self.seed)
            return [rng.standard_normal((len(s), 128)).astype(np.float32) for s in slides]
        matrices, split = self.expression(), len(self.train)
        found: list[np.ndarray] = []
        for test in matrices[split:]:
            train_h, test_h = pca_features(matrices[:split], test, 128, self.seed)
            found = [*(found or train_h), test_h]
        return [(x / np.sqrt(x.var(axis=0).mean())).astype(np.float32) for x in found]

    def embedded(self, features: str) -> tuple[list[EmbeddedSlide], float]:
        """Training and test slides with :meth:`embeddings`, those of training slides out of fold
        where the encoder can, and the seconds it took: the conditions of a fold share them."""
        if features not in self._embedded:
            start = time.perf_counter()
            slides = self._embed(features)
            self._embedded[features] = slides, time.perf_counter() - start
        return self._embedded[features]

    def _embed(self, features: str) -> list[EmbeddedSlide]:
        h = self.embeddings(features)
        slides = [
            EmbeddedSlide(s.name, x, s.xy, fold=spatial_blocks(s.xy))
            for s, x in zip(self.train + self.test, h, strict=True)
            if s.xy is not None
        ]
        if features in ("encoder", "leaky"):
            encoder, seen = self.encoder(leaky=features == "leaky"), list(self.train)
            seen += self.test if features == "leaky" else []
            slides[: len(self.train)] = embed_training(encoder, seen)[: len(self.train)]
        return slides

    def method(self, name: str) -> Iterator[dict[str, Any]]:
        """Train one condition and score every test slide."""
        condition, args = CONDITIONS[name], self.args
        slides, embed_seconds = self.embedded(condition.features)
        option = condition.option or Option(
            NetworkSettings(form=args.form), LossWeights(procrustes=args.w_procrustes)
        )
        settings = MinisetSettings(
            per_epoch=args.per_epoch if condition.trained else args.batch_size,
            batch_size=args.batch_size,
            size_max=args.size_max,
            num_candidates=args.candidates if condition.option else condition.num_candidates,
            num_rows=64,
            augmentation=Augmentation(noise_h=args.noise_h),
            gate_walk=option.gate_walk,
            seed=self.seed,
        )
        split = len(self.train)
        data = MinisetDataModule(slides[:split], [], settings)
        if condition.bound is not None:
            data = BoundedData(slides[:split], [], settings)
            data.bound = condition.bound
        torch.manual_seed(self.seed)
        module = SpatialIPAModule(
            replace(option.network, d_input=slides[0].h.shape[1]),
            condition.graph,
            option.weights,
            schedule(option.network.form, args) if condition.trained else NO_STEPS,
            common_frame=args.common_frame,
        )
        start = time.perf_counter()
        epochs = args.epochs if condition.trained else 1
        quiet_trainer(epochs, gradient_clip_val=1.0).fit(module, datamodule=data)
        seconds = time.perf_counter() - start
        for slide, x in zip(self.test, slides[split:], strict=True):
            common = {"train_s": seconds, "embed_s": embed_seconds}
            if condition.graph == "gated":
                common |= gate_precision(module.placer(), x.h, x.xy)
            for mode, layout in self._layouts(module, x, condition):
                row = {"method": name, "inference": mode, **common}
                yield {"slide": slide.name, **row, **self.scorer(slide).score(layout)}

    def _layouts(
        self, module: SpatialIPAModule, slide: EmbeddedSlide, condition: Condition
    ) -> Iterator[tuple[str, np.ndarray]]:
        h = torch.from_numpy(np.array(slide.h))
        assert module.context is not None
        frame = module.context.frame
        if condition.graph == "true":
            item = build_miniset(
                h, torch.from_numpy(np.array(slide.xy)), condition.num_candidates,
                generator_for(self.seed), num_rows=8,
            )  # fmt: skip
            if frame is not None:
                first = torch.from_numpy(frame.averaged(slide.h, self.seed))
                item = replace(item, start=first.float())
            module.eval()
            with torch.no_grad():
                yield "whole", module(item)[0].x.numpy()
            return
        if condition.bound is not None:
            assert frame is not None, "a bound is of a network that starts in the common frame"
            size, draws = self.args.size_max, self.args.num_draws
            mode = "whole" if len(h) <= size else "stitched"
            yield mode, place_bounded(
                module.model, slide, condition.bound, condition.num_candidates, size, draws,
                self.seed, frame,
            )  # fmt: skip
            return
        auto = "whole" if len(h) <= self.args.size_max else "stitched"
        for mode in dict.fromkeys(auto if m == "auto" else m for m in self.args.modes):
            layout = module.placer().layout(h, mode, self.args.num_draws, self.seed).xy.numpy()
            if condition.option is None:
                folder = Path(self.args.out) / "layouts" / self.args.tag
                folder.mkdir(parents=True, exist_ok=True)
                name = f"{self.fold.name}_{slide.name}_{'' if condition.trained else 'untrained_'}"
                name += f"{condition.features}_{condition.graph}_{condition.num_candidates}"
                np.save(folder / f"{name.replace('/', '_')}_{mode}_{self.seed}.npy", layout)
            yield mode, layout

    def rivals(self, names: list[str], outline: bool) -> Iterator[dict[str, Any]]:
        """Each rival on each test slide; ``outline`` gives it that step of our placement."""
        matrices, split = self.expression(), len(self.train)
        xy = [s.xy.astype(np.float64) for s in self.train if s.xy is not None]
        aspect = typical_aspect(xy)
        for slide, test in zip(self.test, matrices[split:], strict=True):
            train_features, test_features = pca_features(matrices[:split], test, 50, self.seed)
            for name in names:
                # A frame per slide hurts regression; registration by expression gives it one.
                for register in (False, True) if name in _REGRESSORS else (False,):
                    start = time.perf_counter()
                    layout = predict(
                        name, train_features, xy, test_features, self.seed, register=register
                    )
                    seconds = time.perf_counter() - start
                    if outline:
                        found = torch.from_numpy(layout)[None]
                        layout = towards_outline(Placement(found[0], found), aspect).xy.numpy()
                    parts = ("registered" if register else "", "outline" if outline else "")
                    mode = ", ".join(part for part in parts if part)
                    row = {"slide": slide.name, "method": name, "inference": mode}
                    yield row | {"train_s": seconds, **self.scorer(slide).score(layout)}

    def regression(self) -> Iterator[dict[str, Any]]:
        """What the common frame says by itself: no graph, no model."""
        slides, split = self.embedded("encoder")[0], len(self.train)
        start = time.perf_counter()
        frame, _ = cross_fit(slides[:split])
        seconds = time.perf_counter() - start
        for slide, x in zip(self.test, slides[split:], strict=True):
            layout = frame.averaged(x.h, self.seed)
            row = {"slide": slide.name, "method": FRAME_ALONE, "inference": ""}
            chosen = {"gamma": frame.gamma, "penalty": frame.penalty, "sharpness": frame.sharpness}
            yield row | {"train_s": seconds, **chosen, **self.scorer(slide).score(layout)}

    def oracle(self) -> Iterator[dict[str, Any]]:
        for slide in self.test:
            scorer = self.scorer(slide)
            start = time.perf_counter()
            found = minimise_slide(scorer.slide, generator_for(self.seed), self.args.oracle_steps)
            row = {"slide": slide.name, "method": "oracle", "inference": ""}
            yield row | {"train_s": time.perf_counter() - start, **scorer.score(found.x.numpy())}
