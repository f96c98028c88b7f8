"""The results table of spatial_ipa on real slides: leave slides out, train, place, score.

    python benchmarks/spatial/table.py run --data DATA --out runs/table
    python benchmarks/spatial/table.py report --out runs/table
    python benchmarks/spatial/table.py recall --data DATA --out runs/table

``run`` computes what ``--splits``, ``--conditions`` and ``--seeds`` name and appends one line of
JSON per held-out slide and method to ``<out>/results.jsonl``; what is there already is skipped, so
it can be stopped and restarted, and several processes may share the work with ``--shard i/n``.
``report`` prints mean and standard deviation over seeds of the mean over held-out slides.
``recall`` prints how many true neighbours the encoder of each fold leaves among the candidates.

A held-out slide takes no part in anything but its own scoring: no epoch is selected, training
lengths are fixed beforehand, and the encoder is trained anew on the training slides of each fold.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.report.machine import describe_machine, machines_of
from common.report.tables import markdown_table
from common.rng import generator_for
from common.training.trainer import quiet_trainer
from spatial_ipa.data.expression import normalise
from spatial_ipa.data.panels import gene_panel, reindex
from spatial_ipa.data.read import read_slide
from spatial_ipa.data.slide import EmbeddedSlide, Slide
from spatial_ipa.data.split import check_split
from spatial_ipa.encoder.datamodule import EncoderDataModule
from spatial_ipa.encoder.frozen import FrozenEncoder, load_encoder
from spatial_ipa.encoder.module import EncoderModule
from spatial_ipa.encoder.settings import DrawSettings
from spatial_ipa.evaluation.baselines.regression import BASELINES, pca_features, predict
from spatial_ipa.evaluation.oracle import minimise_slide
from spatial_ipa.evaluation.scorer import COLUMNS, SlideScorer
from spatial_ipa.geometry.graphs import adaptive_k
from spatial_ipa.geometry.neighbours import neighbour_recall
from spatial_ipa.layout.frame_regression import FrameRegression
from spatial_ipa.layout.outline import towards_outline, typical_aspect
from spatial_ipa.layout.placement import Placement
from spatial_ipa.model.losses import LossWeights
from spatial_ipa.model.minisets import Augmentation, build_miniset, draw_members
from spatial_ipa.model.network import NetworkSettings
from spatial_ipa.model.pair import GraphMode
from spatial_ipa.training.datamodule import MinisetDataModule
from spatial_ipa.training.module import SpatialIPAModule
from spatial_ipa.training.settings import MinisetSettings


@dataclass(frozen=True)
class Fold:
    """One training: which files train, which are scored."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]


def _leave_one_out(folder: str, slides: list[str]) -> tuple[Fold, ...]:
    paths = [f"{folder}/{s}.h5ad" for s in slides]
    return tuple(
        Fold(s, tuple(p for p in paths if p != path), (path,))
        for s, path in zip(slides, paths, strict=True)
    )


def _patient(letter: str, num_slides: int = 6) -> tuple[Fold, ...]:
    return _leave_one_out("her2st", [f"{letter}{i}" for i in range(1, num_slides + 1)])


def _synovium(donor: str) -> tuple[Fold, ...]:
    sections = [f"ra_synovium/{donor}_{i}.h5ad" for i in range(1, 5)]
    return (Fold(f"{donor}_24", tuple(sections[::2]), tuple(sections[1::2])),)


SPLITS: dict[str, tuple[Fold, ...]] = {
    "her2st_A": _patient("A"),
    "her2st_B": _patient("B"),
    "her2st_C": _patient("C"),
    "dlpfc": (
        Fold("151675", ("dlpfc/151673.h5ad",), ("dlpfc/151675.h5ad",)),
        Fold("151673", ("dlpfc/151675.h5ad",), ("dlpfc/151673.h5ad",)),
    ),
    "seqfish": (
        Fold("embryo2", ("seqfish_embryo/embryo1.h5ad",), ("seqfish_embryo/embryo2.h5ad",)),
    ),
    "starmap": (Fold("BZ9", ("starmap_mpfc/BZ5.h5ad",), ("starmap_mpfc/BZ9.h5ad",)),),
    # Section 2 would be the validation slide; nothing is selected here, so it is left unused.
    "ra4": (
        Fold(
            "RA4_45",
            ("ra_synovium/RA4_1.h5ad", "ra_synovium/RA4_3.h5ad"),
            ("ra_synovium/RA4_4.h5ad", "ra_synovium/RA4_5.h5ad"),
        ),
    ),
    # No choice was made on what follows.
    "merfish": (
        Fold(
            "m0.29",
            ("merfish_hypothalamus/A1_bregma_m0.09.h5ad",),
            ("merfish_hypothalamus/A1_bregma_m0.29.h5ad",),
        ),
    ),
    "her2st_D": _patient("D"),
    "her2st_E": _patient("E", 3),
    "her2st_F": _patient("F", 3),
    "stahl": _leave_one_out("stahl_breast", [f"layer{i}" for i in range(1, 5)]),
    **{f"synovium_{donor}": _synovium(donor) for donor in ("RA1", "RA3", "RA6")},
}


@dataclass(frozen=True)
class Condition:
    """One row of the table."""

    features: str  # encoder, pca, noise or leaky
    graph: GraphMode
    num_candidates: int


CONDITIONS: dict[str, Condition] = {
    "gate k=100": Condition("encoder", "gated", 100),
    "gate k=80": Condition("encoder", "gated", 80),
    "gate k=60": Condition("encoder", "gated", 60),
    "no gate k=100": Condition("encoder", "candidates", 100),
    "true graph": Condition("encoder", "true", 100),
    "PCA, gate k=100": Condition("pca", "gated", 100),
    "random embeddings": Condition("noise", "gated", 100),
    # What every later stage refuses: the encoder has seen the held-out coordinates.
    "leak audit": Condition("leaky", "gated", 100),
}


_REGRESSORS = ("knn", "ridge", "svr", "mlp")
# Whether the rivals are given the outline step of our placement.
_RIVAL_CONDITIONS = {"rivals": False, "rivals, outline": True}
_FRAME_ALONE = "common frame alone"


class _SlidesInMemory(EncoderDataModule):
    """The encoder's data from slides that are in memory, such as turned ones."""

    def __init__(self, train: list[Slide], heldout: list[Slide], seed: int) -> None:
        super().__init__([], [], draws=DrawSettings(seed=seed))
        self.given = train, heldout

    def setup(self, stage: str) -> None:
        self.declare(*self.given)


def turned(slide: Slide, seed: int, index: int) -> Slide:
    """The slide in another pose: turned by a random angle, mirrored half of the time."""
    assert slide.xy is not None
    angle, mirror = torch.rand(2, generator=generator_for(seed, 77, index)).tolist()
    c, s = np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)
    turn = np.array([[c, -s], [s, c]]) @ np.diag([1.0, -1.0 if mirror < 0.5 else 1.0])
    return Slide.build(
        slide.name,
        slide.counts,
        slide.genes,
        (slide.xy.astype(np.float64) @ turn).astype(np.float32),
        obs_names=slide.obs_names,
        is_logged=slide.is_logged,
        patient=slide.patient,
    )


@lru_cache(maxsize=8)  # the folds of one split share slides, and so do their seeds
def _slide_with_xy(path: Path) -> Slide:
    return read_slide(path, require_spatial=True)


class Runner:
    """One fold with one seed: slides, features and scorers are made once, when first needed."""

    def __init__(self, args: argparse.Namespace, fold: Fold, seed: int) -> None:
        self.args, self.fold, self.seed = args, fold, seed
        root = Path(args.data)
        self.train = [_slide_with_xy(root / p) for p in fold.train]
        self.test = [_slide_with_xy(root / p) for p in fold.test]
        if args.rotate:
            self.train = [turned(s, seed, i) for i, s in enumerate(self.train)]
        self._scorers: dict[str, SlideScorer] = {}

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
        path = Path(self.args.out) / "encoders" / self.args.tag
        path = path / f"{self.fold.name}_{self.seed}{suffix}.pt"
        if not path.exists():
            # As configs/spatial_ipa/encoder.yaml; the class's own default rate is AdamW's.
            optimizer = partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-2)
            module = EncoderModule(str(path), optimizer=optimizer, seed=self.seed)
            seen = self.train + self.test if leaky else self.train
            data = _SlidesInMemory(seen, [] if leaky else self.test, self.seed)
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

    def embedded(self, features: str) -> list[EmbeddedSlide]:
        """Training and test slides with :meth:`embeddings`."""
        h = self.embeddings(features)
        return [
            EmbeddedSlide(s.name, x, s.xy)
            for s, x in zip(self.train + self.test, h, strict=True)
            if s.xy is not None
        ]

    def method(self, name: str) -> Iterator[dict[str, Any]]:
        """Train one condition and score every test slide."""
        condition, args = CONDITIONS[name], self.args
        start = time.perf_counter()
        slides = self.embedded(condition.features)
        embed_seconds = time.perf_counter() - start
        settings = MinisetSettings(
            per_epoch=args.per_epoch,
            batch_size=args.batch_size,
            size_max=args.size_max,
            num_candidates=condition.num_candidates,
            num_rows=64,
            augmentation=Augmentation(noise_h=args.noise_h),
            seed=self.seed,
        )
        split = len(self.train)
        data = MinisetDataModule(slides[:split], [], settings)
        torch.manual_seed(self.seed)
        module = SpatialIPAModule(
            NetworkSettings(d_input=slides[0].h.shape[1]),
            condition.graph,
            LossWeights(procrustes=args.w_procrustes),
            common_frame=args.common_frame,
        )
        start = time.perf_counter()
        quiet_trainer(args.epochs, gradient_clip_val=1.0).fit(module, datamodule=data)
        seconds = time.perf_counter() - start
        for slide, x in zip(self.test, slides[split:], strict=True):
            common = {"train_s": seconds, "embed_s": embed_seconds}
            for mode, layout in self._layouts(module, x, condition):
                row = {"method": name, "inference": mode, **common}
                yield {"slide": slide.name, **row, **self.scorer(slide).score(layout)}

    def _layouts(
        self, module: SpatialIPAModule, slide: EmbeddedSlide, condition: Condition
    ) -> Iterator[tuple[str, np.ndarray]]:
        h = torch.from_numpy(np.array(slide.h))
        if condition.graph == "true":
            item = build_miniset(
                h, torch.from_numpy(np.array(slide.xy)), condition.num_candidates,
                generator_for(self.seed), num_rows=8,
            )  # fmt: skip
            module.eval()
            with torch.no_grad():
                yield "whole", module(item)[0].x.numpy()
            return
        for mode in ("whole", "stitched"):
            layout = module.placer().layout(h, mode, self.args.num_draws, self.seed).xy.numpy()
            folder = Path(self.args.out) / "layouts" / self.args.tag
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{slide.name}_{condition.features}_{condition.graph}_{condition.num_candidates}"
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
        slides, split = self.embedded("encoder"), len(self.train)
        start = time.perf_counter()
        frame = FrameRegression.fit(slides[:split])
        seconds = time.perf_counter() - start
        for slide, x in zip(self.test, slides[split:], strict=True):
            layout = frame.averaged(x.h, self.seed)
            row = {"slide": slide.name, "method": _FRAME_ALONE, "inference": ""}
            yield row | {"train_s": seconds, **self.scorer(slide).score(layout)}

    def oracle(self) -> Iterator[dict[str, Any]]:
        for slide in self.test:
            scorer = self.scorer(slide)
            start = time.perf_counter()
            found = minimise_slide(scorer.slide, generator_for(self.seed), self.args.oracle_steps)
            row = {"slide": slide.name, "method": "oracle", "inference": ""}
            yield row | {"train_s": time.perf_counter() - start, **scorer.score(found.x.numpy())}


def jobs(args: argparse.Namespace) -> Iterator[tuple[str, Fold, str, int]]:
    for split in args.splits:
        for fold in SPLITS[split]:
            if args.folds and fold.name not in args.folds:
                continue
            for seed in args.seeds:
                for condition in args.conditions:
                    yield split, fold, condition, seed


def run(args: argparse.Namespace) -> None:
    """Compute what is missing, one line of results at a time."""
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.jsonl"
    index, count = (int(part) for part in args.shard.split("/"))
    # One job holds several rivals, of which some may be there already.
    there = {(_key(row), row["method"]) for row in _read(results)}
    done = {key for key, _ in there}
    runner: Runner | None = None
    for number, (split, fold, condition, seed) in enumerate(jobs(args)):
        if number % count != index:
            continue
        key = (split, fold.name, condition, seed, args.tag, args.rotate)
        rivals = [name for name in args.rivals if (key, name) not in there]
        if not rivals if condition in _RIVAL_CONDITIONS else key in done:
            continue
        if runner is None or (runner.fold, runner.seed) != (fold, seed):
            runner = Runner(args, fold, seed)
        if condition in _RIVAL_CONDITIONS:
            rows = runner.rivals(rivals, outline=_RIVAL_CONDITIONS[condition])
        elif condition == _FRAME_ALONE:
            rows = runner.regression()
        elif condition == "oracle":
            rows = runner.oracle()
        else:
            rows = runner.method(condition)
        identity = dict(zip(_KEY, key, strict=True))
        origin = {"machine": describe_machine()}
        lines = [json.dumps({**identity, **row, **origin}) + "\n" for row in rows]
        with results.open("a") as file:
            file.write("".join(lines))
        for line in lines:
            row = json.loads(line)
            print(
                f"{split} {row['slide']} seed {seed} {row['method']} {row['inference']}: "
                f"E_geo {row['e_geo']:.3f} minisets {row['e_geo_minisets']:.3f} "
                f"Spearman {row['spearman']:.3f} RMSE {row['procrustes_rmse']:.3f} "
                f"recall {row['recall_k']:.3f} ({row['train_s']:.0f} s)",
                flush=True,
            )


_KEY = ("split", "fold", "condition", "seed", "tag", "rotate")


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[k] for k in _KEY)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def _cell(by_seed: Sequence[float]) -> str:
    spread = f" ± {np.std(by_seed, ddof=1):.3f}" if len(by_seed) > 1 else ""
    return f"{np.mean(by_seed):.3f}{spread}"


def report(args: argparse.Namespace) -> None:
    """Print mean and sd over seeds of the mean over held-out slides, per split and method.

    Splits of one dataset, as the patients of her2st are, are then also taken together, for the
    methods that placed every slide of them.  With several ``--tags``, trained methods are told
    apart by theirs.
    """
    tags = args.tags or [args.tag]
    rows = [r for r in _read(Path(args.out) / "results.jsonl") if r["tag"] in tags]
    rows = [r for r in rows if r["rotate"] == args.rotate and r["split"] in args.splits]
    print(f"Measured on {machines_of(rows)}")
    for row in rows:
        if len(tags) > 1 and row["condition"] in CONDITIONS:
            row["inference"] = f"{row['tag']}, {row['inference']}"
    datasets: dict[str, list[str]] = {}
    for split in dict.fromkeys(r["split"] for r in rows):
        datasets.setdefault(split.partition("_")[0], []).append(split)
        _print_table(split, _by_method([r for r in rows if r["split"] == split]))
    for dataset, splits in datasets.items():
        if len(splits) == 1:
            continue
        chosen = [r for r in rows if r["split"] in splits]
        slides = {r["slide"] for r in chosen}
        methods = {k: m for k, m in _by_method(chosen).items() if {r["slide"] for r in m} == slides}
        _print_table(f"{dataset}: {', '.join(splits)} together", methods)


_Method = tuple[str, str]  # its name, how it was applied


def _by_method(rows: list[dict[str, Any]]) -> dict[_Method, list[dict[str, Any]]]:
    found: dict[_Method, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["method"], row["inference"]), []).append(row)
    return found


def _print_table(title: str, methods: dict[_Method, list[dict[str, Any]]]) -> None:
    rows = []
    for method, mine in methods.items():
        slides = {r["slide"] for r in mine}
        # A seed that has not seen every slide yet would compare different slides.
        seeds = [
            s
            for s in sorted({r["seed"] for r in mine})
            if {r["slide"] for r in mine if r["seed"] == s} == slides
        ]
        cells = [
            _cell([_mean_of(column, [r for r in mine if r["seed"] == s]) for s in seeds])
            for column in COLUMNS
        ]
        name = ", ".join(part for part in method if part)
        rows.append([name, str(len(slides)), str(len(seeds)), *cells])
    print(f"\n### {title}\n")
    print(markdown_table(["method", "slides", "seeds", *COLUMNS.values()], rows))


def _mean_of(column: str, rows: list[dict[str, Any]]) -> float:
    """NaN if a row lacks that score, as those of ``results.jsonl`` do from before it existed."""
    return float(np.mean([row.get(column, np.nan) for row in rows]))


RECALL_AT = (60, 80, 100, 120)
_RECALL_SIZE, _RECALL_DRAWS = 384, 10


def candidate_recall(h: np.ndarray, xy: np.ndarray) -> list[float]:
    """Share of the true neighbours among the c nearest in H for each c of RECALL_AT, then c = k.

    Mean over subsets of up to 384 cells, as in training and stitching: on a whole slide of
    thousands of cells k = 0.15 n passes any c, and the figure says more about n than about H.
    """
    found = []
    for draw in range(_RECALL_DRAWS if len(h) > _RECALL_SIZE else 1):
        chosen = draw_members(
            len(h), _RECALL_SIZE, _RECALL_SIZE, generator_for(0, 78, draw)
        ).numpy()
        k = adaptive_k(len(chosen))
        at = [min(c, len(chosen) - 1) for c in (*RECALL_AT, k)]
        found.append([neighbour_recall(h[chosen], xy[chosen], k, c) for c in at])
    return np.mean(found, axis=0).tolist()


def recall(args: argparse.Namespace) -> None:
    """Print candidate recall on held-out slides; encoders that are missing are trained."""
    print(f"{describe_machine()}\n")
    print("| held out | features | " + " | ".join([*map(str, RECALL_AT), "k"]) + " |")
    print("|" + " --- |" * (3 + len(RECALL_AT)))
    for split in args.splits:
        found: dict[str, dict[int, list[list[float]]]] = {}
        for fold in SPLITS[split]:
            for seed in args.seeds:
                runner = Runner(args, fold, seed)
                xy = [s.xy for s in runner.test if s.xy is not None]
                for name in ("encoder", "pca", "noise"):
                    features = runner.embeddings(name)[len(runner.train) :]
                    rows = [candidate_recall(h, x) for h, x in zip(features, xy, strict=True)]
                    found.setdefault(name, {}).setdefault(seed, []).extend(rows)
        for name, by_seed in found.items():
            means = np.array(
                [np.mean(rows, axis=0) for rows in by_seed.values()]
            )  # (seeds, columns)
            cells = [_cell(column) for column in means.T]
            title = {"encoder": "encoder", "pca": "PCA, 128", "noise": "random"}[name]
            print(f"| {split} | {title} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["run", "report", "recall"])
    parser.add_argument("--data", help="folder that holds her2st/, dlpfc/, ...")
    parser.add_argument("--out", default="runs/table")
    parser.add_argument("--splits", nargs="+", choices=list(SPLITS), default=list(SPLITS))
    names = [*CONDITIONS, *_RIVAL_CONDITIONS, _FRAME_ALONE, "oracle"]
    parser.add_argument("--conditions", nargs="+", choices=names, default=names)
    parser.add_argument("--rivals", nargs="+", choices=list(BASELINES), default=list(BASELINES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rotate", action="store_true", help="training slides in random poses")
    parser.add_argument("--folds", nargs="+", help="only folds of these names")
    parser.add_argument("--shard", default="0/1", help="i/n: this process's share of the work")
    parser.add_argument("--tag", default="laptop", help="name of these settings in the results")
    parser.add_argument("--tags", nargs="+", help="of the report; --tag alone when left out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--encoder-epochs", type=int, default=10)
    parser.add_argument("--per-epoch", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--size-max", type=int, default=384)
    parser.add_argument("--noise-h", type=float, default=0.3)
    parser.add_argument("--w-procrustes", type=float, default=0.0)
    parser.add_argument("--common-frame", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--num-draws", type=int, default=16)
    parser.add_argument("--oracle-steps", type=int, default=2000)
    args = parser.parse_args()
    if args.command != "report" and args.data is None:
        parser.error(f"{args.command} needs --data")
    {"run": run, "report": report, "recall": recall}[args.command](args)


if __name__ == "__main__":
    main()
