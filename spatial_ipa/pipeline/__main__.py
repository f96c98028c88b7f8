"""The whole main job in one command: slides in, trained model, scores, figure and maps out.

    python -m spatial_ipa.pipeline                                    # simulated tissue
    python -m spatial_ipa.pipeline --slides "['A*.h5ad']" --holdout "['B.h5ad']" --out runs/mine

Stages: simulate (only without slides), encoder, joint training with gate pretraining, evaluation on
the held-out slides beside regression of coordinates, prediction.  Error radii are calibrated on the
validation slides; how far expression fixes position at all is reported for validation and held-out
slides.  The training stages are the same ``lightning fit`` commands a user would type.  A stage
whose inputs have not changed is reused: contents of the slides by role, configs, seed.  Everything
is written under ``--out``.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli

from common.cli.main import one_line_errors
from common.errors import ExistingFile, UserError
from common.files.atomic import atomic_path
from common.report.figures import save_figure
from common.rng import numpy_generator_for
from common.training.stage import run_stage
from spatial_ipa.confidence.calibration import CALIBRATION_VERSION, radius_check
from spatial_ipa.data.expression import normalise
from spatial_ipa.data.read import gene_panel, read_slide, read_slides, reindex, slide_files
from spatial_ipa.data.simulation.files import TissueSpec, ensure_tissue
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.split import SPLIT_VERSION, check_split
from spatial_ipa.encoder.cache import embed
from spatial_ipa.encoder.frozen import ENCODER_VERSION, FrozenEncoder, load_encoder
from spatial_ipa.evaluation.baselines.regression import pca_features, predict
from spatial_ipa.evaluation.plots import layout_figure
from spatial_ipa.evaluation.report import JudgedSlide, write_identifiability
from spatial_ipa.evaluation.scorer import SlideScorer
from spatial_ipa.geometry.metrics import FULL_SIZE, MIN_POINTS
from spatial_ipa.layout.frame_regression import FRAME_VERSION
from spatial_ipa.layout.placement import Placement
from spatial_ipa.placing.options import InferenceMode, PlacementOptions
from spatial_ipa.placing.placer import Placer
from spatial_ipa.placing.result import CellPrediction
from spatial_ipa.training.datamodule import yaml_list
from spatial_ipa.training.module import SpatialIPAModule

COLUMNS = (
    "e_geo",
    "e_geo_minisets",
    "spearman",
    "recall_k",
    "recall_10",
    "procrustes_rmse",
    "trustworthiness",
    "continuity",
    "sliced_wasserstein",
)
_RIVALS = ("knn", "ridge", "svr", "random")


def run(
    slides: list[str] | None = None,
    holdout: list[str] | None = None,
    validation: list[str] | None = None,
    scrna: list[str] | None = None,
    out: str = "runs/quickstart",
    encoder_config: str = "configs/spatial_ipa/encoder.yaml",
    configs: tuple[str, ...] = ("configs/spatial_ipa/fit.yaml", "configs/spatial_ipa/laptop.yaml"),
    overrides: list[str] | None = None,
    spatial_key: str = "spatial",
    layer: str | None = None,
    gene_key: str | None = None,
    scrna_layer: str | None = None,
    scrna_gene_key: str | None = None,
    tissue: TissueSpec = TissueSpec(num_slides=5),
    num_draws: int = 16,
    max_scored: int = FULL_SIZE,
    seed: int = 0,
) -> None:
    """Train on slides, score on held-out slides, predict.

    Args:
        slides: training slides (files, folders, patterns); simulated tissue when left out.
        holdout: slides to score on, used for nothing else; required with ``slides``.
        validation: further slides that choose the epoch and calibrate the error radii; without
            them the last epoch is kept and there are no radii.
        scrna: dissociated samples to place (files, folders, patterns); the encoder is aligned with
            their expression, too.
        out: folder of everything written.
        encoder_config: config of the encoder stage; it and those below must name a logger.
        configs: config of the joint stage and its overlays.
        overrides: further ``lightning fit`` arguments of the joint stage.
        spatial_key: key of the coordinates in ``obsm`` of the slides.
        layer: layer of the counts of the slides; ``X`` when null, ``raw.X`` for ``AnnData.raw``.
        gene_key: column of ``var`` of the slides with the gene names; its index when null.
        scrna_layer: that of ``scrna``; as ``layer`` when null.
        scrna_gene_key: that of ``scrna``; as ``gene_key`` when null, ``var_names`` for the index.
        tissue: the simulated tissue.
        num_draws: layouts averaged per prediction; error radii need as many as calibrated with
            (``model.init_args.calibration_draws``, 16).
        max_scored: larger slides are scored on so many random spots, and the regressions beside
            learn from no more: the energy of a whole slide has about 0.15 n^2 edges, and support
            vector regression is no faster.
        seed: of the simulation-independent parts: training and placement.
    """
    if max_scored < MIN_POINTS:
        raise UserError(f"max_scored must be at least {MIN_POINTS}, got {max_scored}")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ExistingFile(f"out={folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    truth: Path | None = None
    if slides is None:
        if tissue.num_slides < 3:
            raise UserError(
                "tissue.num_slides must be at least 3, to train, choose the epoch and score; got "
                f"{tissue.num_slides}"
            )
        print(f"[1/4] simulated tissue in {folder / 'tissue'}", flush=True)
        written = ensure_tissue(tissue, folder / "tissue")
        names = [str(path) for path in written.slides]
        slides, validation, holdout = names[:-2], names[-2:-1], names[-1:]
        scrna, truth = [str(written.scrna)], written.truth
    else:
        print("[1/4] slides as given", flush=True)
    if not holdout:
        raise UserError("holdout is empty: name at least one slide to score on")
    validation = validation or []

    def read(paths: list[str]) -> list[Slide]:
        return read_slides(paths, spatial_key=spatial_key, layer=layer, gene_key=gene_key)

    train, test = read(slides), read(holdout)
    choosing = read(validation) if validation else []
    sample_files = slide_files(scrna) if scrna else []
    samples = [
        read_slide(
            path,
            require_spatial=False,
            layer=layer if scrna_layer is None else scrna_layer,
            gene_key=gene_key if scrna_gene_key is None else scrna_gene_key,
        )
        for path in sample_files
    ]
    _refuse_equal_outputs(choosing + test + samples)
    gene_panel(train + choosing + test)

    content = stage_content(train, choosing, test, samples)
    encoder_path, checkpoint = folder / "encoder.pt", folder / "spatial_ipa.ckpt"
    columns = [
        f"--data.init_args.spatial_key={spatial_key}",
        f"--data.init_args.layer={layer or 'null'}",
        f"--data.init_args.gene_key={gene_key or 'null'}",
    ]
    lists = {
        "train_slides": slides,
        "heldout_slides": validation + holdout,
        "scrna": [str(path) for path in sample_files],
    }
    print("[2/4] encoder", flush=True)
    _stage(
        encoder_path,
        [content, Path(encoder_config).read_text(), seed],
        lambda: run_stage(
            [
                "fit",
                f"--config={encoder_config}",
                f"--seed_everything={seed}",
                f"--model.init_args.seed={seed}",
                f"--data.init_args.seed={seed}",
                f"--trainer.default_root_dir={folder / 'encoder'}",
                f"--trainer.logger.init_args.save_dir={folder}",
                f"--model.init_args.output={encoder_path}",
                *(f"--data.init_args.{k}={yaml_list(v)}" for k, v in lists.items()),
                *columns,
                f"--data.init_args.scrna_layer={scrna_layer or 'null'}",
                f"--data.init_args.scrna_gene_key={scrna_gene_key or 'null'}",
                "--data.init_args.simulate=null",
            ]
        ),
    )
    print("[3/4] gate and model", flush=True)
    encoder = load_encoder(encoder_path)
    check_split(encoder.split, train, choosing + test)
    _stage(
        checkpoint,
        [
            content,
            [CALIBRATION_VERSION, FRAME_VERSION],
            encoder.weights_hash,
            [Path(c).read_text() for c in configs],
            overrides,
            seed,
        ],
        lambda: _fit_joint(
            folder, configs, slides, validation, encoder_path, columns + (overrides or []), seed
        ),
    )
    print("[4/4] evaluation and prediction", flush=True)
    placer = SpatialIPAModule.load_from_checkpoint(
        checkpoint, map_location="cpu", weights_only=True
    ).placer()
    if placer.encoder.weights_hash != encoder.weights_hash:
        raise UserError(
            f"{checkpoint} was not trained on embeddings of {encoder_path}; delete both, or choose "
            "another out"
        )
    rows: list[dict[str, Any]] = []
    radii: dict[str, dict[str, float]] = {}
    for slide, path in zip(test, slide_files(holdout), strict=True):
        rows += _evaluate(placer, encoder, train, slide, folder, num_draws, max_scored, seed)
        # The file has all its rows, also the empty ones, which scoring leaves out.
        every = read_slide(
            path,
            require_spatial=False,
            layer=layer,
            gene_key=gene_key,
            min_spots=2,
            name=slide.name,
        )
        radii |= _predict_slide(placer, slide, every, path, folder, num_draws, seed)
    for sample, file in zip(samples, sample_files, strict=True):
        rows += _place_sample(
            placer, sample, file, truth, folder, num_draws, max_scored, seed, radii
        )
    _write_table(rows, folder)
    judged = [
        JudgedSlide(s.name, role, embed(encoder, s, "st", folder / "cache"), s.xy)
        for role, members in (("validation", choosing), ("held out", test))
        for s in members
        if s.xy is not None
    ]
    print(write_identifiability(judged, radii, folder), end="", flush=True)
    print(f"tables, figures and predicted h5ad files are in {folder}", flush=True)


def _fit_joint(
    folder: Path,
    configs: tuple[str, ...],
    slides: list[str],
    validation: list[str],
    encoder: Path,
    overrides: list[str],
    seed: int,
) -> None:
    run_stage(
        [
            "fit",
            *(f"--config={config}" for config in configs),
            f"--seed_everything={seed}",
            f"--data.init_args.minisets.seed={seed}",
            f"--trainer.default_root_dir={folder / 'joint'}",
            f"--trainer.logger.init_args.save_dir={folder}",
            f"--data.init_args.train_slides={yaml_list(slides)}",
            f"--data.init_args.val_slides={yaml_list(validation)}",
            f"--data.init_args.encoder={encoder}",
            f"--data.init_args.cache_dir={folder / 'cache'}",
            "--data.init_args.simulate=null",
            f"--model.init_args.export={folder / 'spatial_ipa.ckpt'}",
            *overrides,
        ]
    )


def stage_content(
    train: list[Slide], validation: list[Slide], holdout: list[Slide], scrna: list[Slide]
) -> dict[str, list[str] | list[int]]:
    """What the training stages read, by role: the same slides in other roles are other inputs."""
    roles = {"train": train, "validation": validation, "holdout": holdout, "scrna": scrna}
    return {
        "versions": [ENCODER_VERSION, SPLIT_VERSION],
        **{role: [slide.content_hash for slide in slides] for role, slides in roles.items()},
    }


def _refuse_equal_outputs(slides: list[Slide]) -> None:
    names = [_file_name(slide) for slide in slides]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"validation, holdout and scrna hold more than one file named {', '.join(twice)}; what "
            "is written about them would overwrite each other: rename the files"
        )


def _file_name(slide: Slide) -> str:
    return slide.name.replace("/", "_")


def _stage(output: Path, inputs: list[Any], make: Callable[[], None]) -> None:
    """Run ``make`` unless ``output`` was made from the same inputs before."""
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    stamp = output.with_name(output.name + ".inputs")
    if output.exists() and stamp.exists() and stamp.read_text() == key:
        print(f"      reused {output}", flush=True)
        return
    stamp.unlink(missing_ok=True)
    output.unlink(missing_ok=True)
    make()
    if not output.exists():
        raise UserError(f"the stage ended without writing {output}")
    _write_text(stamp, key)


def _write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def _evaluate(
    placer: Placer,
    encoder: FrozenEncoder,
    train: list[Slide],
    slide: Slide,
    folder: Path,
    num_draws: int,
    max_scored: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Score model and rivals on one held-out slide, and draw its figure."""
    assert slide.xy is not None
    scored = _some_rows(len(slide), max_scored, seed)
    modes: tuple[InferenceMode, ...] = ("whole", "stitched")
    if len(scored) < len(slide):
        modes = ("stitched",)  # what is used; all at once is far beyond any size trained on
        print(
            f"      {slide.name}: scored on {len(scored)} random spots of {len(slide)}", flush=True
        )
    xy = slide.xy[scored]
    scorer = SlideScorer(xy, seed=seed)
    h = torch.from_numpy(np.array(embed(encoder, slide, "st", folder / "cache")))
    layouts: dict[str, np.ndarray] = {}
    placements: dict[str, Placement] = {}
    used = placer.context.mode_for(len(slide))
    for mode in modes:
        repeated = mode == "stitched" and used == "whole"  # then they are the same
        placements[mode] = (
            placements["whole"] if repeated else placer.layout(h, mode, num_draws, seed)
        )
        layouts[f"spatial_ipa, {mode}"] = placements[mode].xy.numpy()[scored]
    share = max_scored // len(train)
    learnt = [_some_rows(len(s), share, seed) for s in train]
    features = [
        _log_counts(s, rows, encoder.panel)
        for s, rows in zip([*train, slide], [*learnt, scored], strict=True)
    ]
    reduced, test_features = pca_features(features[:-1], features[-1], 50, seed)
    train_xy = [
        s.xy[rows].astype(np.float64)
        for s, rows in zip(train, learnt, strict=True)
        if s.xy is not None
    ]
    for name in _RIVALS:
        # Regression of coordinates needs one frame, so training slides are registered first.
        layouts[name] = predict(name, reduced, train_xy, test_features, seed, register=True)
    rows = [
        {"slide": slide.name, "method": name, **scorer.score(layout)}
        for name, layout in layouts.items()
    ]
    shown = {name: layouts[name] for name in (f"spatial_ipa, {used}", "svr")}
    figure = layout_figure(slide.name, xy, shown, placements[used].spread.numpy()[scored])
    save_figure(figure, folder / f"layout_{_file_name(slide)}.png")
    return rows


def _predict_slide(
    placer: Placer,
    slide: Slide,
    every: Slide,
    path: Path,
    folder: Path,
    num_draws: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Write the predicted h5ad of a held-out slide; how its error radii held, if it has any.

    Args:
        slide: as it was scored.
        every: all rows of its file, also those without counts.
    """
    assert slide.xy is not None
    target = folder / f"predicted_{_file_name(slide)}.h5ad"
    prediction = placer.place(every, "st", PlacementOptions("auto", num_draws, seed=seed))
    prediction.write(path, target, overwrite=True)
    print(f"      wrote {target}", flush=True)
    known = _placed(prediction, every)
    return _radii(slide.name, prediction, slide.xy[known])


def _placed(prediction: CellPrediction, every: Slide) -> np.ndarray:
    """Which rows that a read for training keeps (those with any count) were placed.

    Placed are rows with counts of the encoder's genes: some, or all, of those.
    """
    placed: np.ndarray = ~prediction.empty[~every.is_empty]
    return placed


def _radii(name: str, prediction: CellPrediction, xy: np.ndarray) -> dict[str, dict[str, float]]:
    """How radii held against the true positions of the cells placed; empty if there are none.

    Reported in RMS radii of the tissue: radii are written in the unit of the layout, which is
    larger by 1 / scale (:mod:`spatial_ipa.placing.judge`).
    """
    if "radius" not in prediction.columns:
        return {}
    placed = ~prediction.empty
    radius = prediction.columns["radius"][placed] * prediction.settings["calibration"]["scale"]
    abstain = prediction.columns["abstain"][placed]
    return {name: radius_check(radius, abstain, prediction.xy[placed], xy)}


def _place_sample(
    placer: Placer,
    sample: Slide,
    path: Path,
    truth: Path | None,
    folder: Path,
    num_draws: int,
    max_scored: int,
    seed: int,
    radii: dict[str, dict[str, float]],
) -> list[dict[str, Any]]:
    """Place one dissociated sample; score it where its true positions are known."""
    target = folder / f"predicted_{sample.name}.h5ad"
    options = PlacementOptions("auto", num_draws, seed=seed)
    prediction = placer.place(sample, "scrna", options)
    prediction.write(path, target, overwrite=True)
    print(f"      wrote {target}", flush=True)
    if truth is None:
        return []
    xy = read_slide(truth, require_spatial=True, min_spots=2).xy
    assert xy is not None
    xy, placed = xy[_placed(prediction, sample)], ~prediction.empty
    layout = prediction.xy[placed]
    radii |= _radii(sample.name, prediction, xy)
    figure = layout_figure(sample.name, xy, {"spatial_ipa": layout}, prediction.spread[placed])
    save_figure(figure, folder / f"layout_{sample.name}.png")
    scored = _some_rows(len(xy), max_scored, seed)
    scores = SlideScorer(xy[scored], seed=seed).score(layout[scored])
    return [{"slide": sample.name, "method": "spatial_ipa", **scores}]


def _some_rows(n: int, most: int, seed: int) -> np.ndarray:
    """(m,) ascending: all rows, or ``most`` random ones where there are more."""
    return np.sort(numpy_generator_for(seed).choice(n, min(n, most), replace=False))


def _log_counts(slide: Slide, rows: np.ndarray, panel: tuple[str, ...]) -> np.ndarray:
    """(m, G) log-normalised, centred expression of some rows on a panel, the rivals' input."""
    counts, _ = reindex(slide, panel)
    return normalise(counts[rows], logged=slide.is_logged)


def _write_table(rows: list[dict[str, Any]], folder: Path) -> None:
    """Print the scores and keep them as markdown, CSV and JSON."""
    head = ["slide", "method", *COLUMNS]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [row["slide"], row["method"], *(f"{row[c]:.3f}" for c in COLUMNS)]
        lines.append("| " + " | ".join(cells) + " |")
    _write_text(folder / "scores.md", "\n".join(lines) + "\n")
    _write_text(folder / "scores.json", json.dumps(rows, indent=1))
    with (
        atomic_path(folder / "scores.csv") as temporary,
        temporary.open("w", newline="") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print("\n".join(lines), flush=True)


def main() -> None:
    with one_line_errors():
        auto_cli(run, as_positional=False)


if __name__ == "__main__":
    main()
