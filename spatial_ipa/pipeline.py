"""The whole main job in one command: slides in, trained model, scores, figure and maps out.

    python -m spatial_ipa.pipeline                                    # simulated tissue
    python -m spatial_ipa.pipeline --slides "['A*.h5ad']" --holdout "['B.h5ad']" --out runs/mine

Stages: simulate (only without slides), encoder, joint training with gate pretraining, evaluation on
the held-out slides beside regression of coordinates, prediction.  The training stages are the same
``lightning fit`` commands a user would type.  A stage whose inputs have not changed is reused.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli

from common.figures import save_figure
from common.stage import run_stage
from spatial_ipa.datamodule import yaml_list
from spatial_ipa.embeddings import embed
from spatial_ipa.encoder import FrozenEncoder, load_encoder
from spatial_ipa.evaluate import SlideScorer
from spatial_ipa.expression import normalise
from spatial_ipa.io import gene_panel, read_slide, read_slides, reindex, slide_files
from spatial_ipa.module import SpatialIPAModule
from spatial_ipa.plots import layout_figure
from spatial_ipa.predict import PlacementOptions, write_prediction_file
from spatial_ipa.rivals import pca_features, predict
from spatial_ipa.simulate import TissueSpec, ensure_tissue
from spatial_ipa.slide import Slide

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
    encoder_config: str = "configs/encoder.yaml",
    configs: tuple[str, ...] = ("configs/spatial_ipa.yaml", "configs/spatial_ipa_laptop.yaml"),
    overrides: list[str] | None = None,
    tissue: TissueSpec = TissueSpec(num_slides=5),
    num_draws: int = 16,
    seed: int = 0,
) -> None:
    """Train on slides, score on held-out slides, predict.

    Args:
        slides: training slides (files, folders, patterns); simulated tissue when left out.
        holdout: slides to score on, used for nothing else; required with ``slides``.
        validation: further slides that choose the epoch; the last epoch is kept without them.
        scrna: dissociated samples to place.
        out: folder of everything written.
        encoder_config: config of the encoder stage.
        configs: config of the joint stage and its overlays.
        overrides: further ``lightning fit`` arguments of the joint stage.
        tissue: the simulated tissue.
        num_draws: layouts averaged per prediction.
        seed: of the simulation-independent parts: training and placement.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    truth: Path | None = None
    if slides is None:
        print(f"[1/4] simulated tissue in {folder / 'tissue'}", flush=True)
        written = ensure_tissue(tissue, folder / "tissue")
        names = [str(path) for path in written.slides]
        slides, validation, holdout = names[:-2], names[-2:-1], names[-1:]
        scrna, truth = [str(written.scrna)], written.truth
    else:
        print("[1/4] slides as given", flush=True)
    if not holdout:
        raise ValueError("holdout is empty: name at least one slide to score on")
    validation = validation or []
    train, test = read_slides(slides), read_slides(holdout)
    choosing = read_slides(validation) if validation else []
    samples = [read_slide(path, require_spatial=False, min_spots=2) for path in scrna or []]
    gene_panel(train + choosing + test)

    content = [s.content_hash for s in train + choosing + test + samples]
    encoder_path, checkpoint = folder / "encoder.pt", folder / "spatial_ipa.ckpt"
    lists = {
        "train_slides": slides,
        "heldout_slides": validation + holdout,
        "scrna": scrna or [],
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
                f"--trainer.default_root_dir={folder / 'encoder'}",
                f"--model.init_args.output={encoder_path}",
                *(f"--data.init_args.{k}={yaml_list(v)}" for k, v in lists.items()),
                "--data.init_args.simulate=null",
            ]
        ),
    )
    print("[3/4] gate and model", flush=True)
    encoder = load_encoder(encoder_path)
    _stage(
        checkpoint,
        [content, encoder.weights_hash, [Path(c).read_text() for c in configs], overrides, seed],
        lambda: _fit_joint(
            folder, configs, slides, validation, encoder_path, overrides or [], seed
        ),
    )
    print("[4/4] evaluation and prediction", flush=True)
    module = SpatialIPAModule.load_from_checkpoint(
        checkpoint, map_location="cpu", weights_only=True
    )
    rows: list[dict[str, Any]] = []
    for slide, path in zip(test, slide_files(holdout), strict=True):
        rows += _evaluate(module, encoder, train, slide, path, folder, num_draws, seed)
    for sample, file in zip(samples, scrna or [], strict=True):
        rows += _place_sample(module, sample, Path(file), truth, folder, num_draws, seed)
    _write_table(rows, folder)


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
            f"--data.init_args.train_slides={yaml_list(slides)}",
            f"--data.init_args.val_slides={yaml_list(validation)}",
            f"--data.init_args.encoder={encoder}",
            f"--data.init_args.cache_dir={folder / 'cache'}",
            "--data.init_args.simulate=null",
            f"--model.init_args.export={folder / 'spatial_ipa.ckpt'}",
            *overrides,
        ]
    )


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
        raise ValueError(f"the stage ended without writing {output}")
    _write_text(stamp, key)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_text(text)
    os.replace(temporary, path)


def _evaluate(
    module: SpatialIPAModule,
    encoder: FrozenEncoder,
    train: list[Slide],
    slide: Slide,
    path: Path,
    folder: Path,
    num_draws: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Score model and rivals on one held-out slide; write its figure and predicted h5ad."""
    assert slide.xy is not None
    scorer = SlideScorer(slide.xy, seed=seed)
    h = torch.from_numpy(np.array(embed(encoder, slide, "st", folder / "cache")))
    layouts: dict[str, np.ndarray] = {}
    placements = {}
    for mode in ("whole", "stitched"):
        placements[mode] = module.place(h, mode, num_draws, seed)
        layouts[f"spatial_ipa, {mode}"] = placements[mode].xy.numpy()
    features = [_log_counts(s, encoder.panel) for s in [*train, slide]]
    reduced, test_features = pca_features(features[:-1], features[-1], 50, seed)
    train_xy = [s.xy.astype(np.float64) for s in train if s.xy is not None]
    for name in _RIVALS:
        # Regression of coordinates needs one frame, so training slides are registered first.
        layouts[name] = predict(name, reduced, train_xy, test_features, seed, register=True)
    rows = [
        {"slide": slide.name, "method": name, **scorer.score(layout)}
        for name, layout in layouts.items()
    ]
    used = placements["whole"]
    shown = {name: layouts[name] for name in ("spatial_ipa, whole", "svr")}
    figure = layout_figure(slide.name, slide.xy, shown, used.spread.numpy())
    save_figure(figure, folder / f"layout_{slide.name.replace('/', '_')}.png")
    target = folder / f"predicted_{slide.name.replace('/', '_')}.h5ad"
    prediction = module.predict_cells(slide, "st", PlacementOptions("whole", num_draws, seed=seed))
    write_prediction_file(prediction, slide, path, target, overwrite=True)
    print(f"      wrote {target}", flush=True)
    return rows


def _place_sample(
    module: SpatialIPAModule,
    sample: Slide,
    path: Path,
    truth: Path | None,
    folder: Path,
    num_draws: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Place one dissociated sample; score it where its true positions are known."""
    target = folder / f"predicted_{sample.name}.h5ad"
    options = PlacementOptions("auto", num_draws, seed=seed)
    prediction = module.predict_cells(sample, "scrna", options)
    write_prediction_file(prediction, sample, path, target, overwrite=True)
    print(f"      wrote {target}", flush=True)
    if truth is None:
        return []
    xy = read_slide(truth, require_spatial=True, min_spots=2).xy
    assert xy is not None
    layout = prediction.xy
    figure = layout_figure(sample.name, xy, {"spatial_ipa": layout}, prediction.spread)
    save_figure(figure, folder / f"layout_{sample.name}.png")
    scores = SlideScorer(xy, seed=seed).score(layout)
    return [{"slide": sample.name, "method": "spatial_ipa", **scores}]


def _log_counts(slide: Slide, panel: tuple[str, ...]) -> np.ndarray:
    """(n, G) log-normalised, centred expression on a panel, the rivals' input."""
    counts, _ = reindex(slide, panel)
    return normalise(counts, logged=slide.is_logged)


def _write_table(rows: list[dict[str, Any]], folder: Path) -> None:
    """Print the scores and keep them as markdown, CSV and JSON."""
    head = ["slide", "method", *COLUMNS]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [row["slide"], row["method"], *(f"{row[c]:.3f}" for c in COLUMNS)]
        lines.append("| " + " | ".join(cells) + " |")
    _write_text(folder / "scores.md", "\n".join(lines) + "\n")
    _write_text(folder / "scores.json", json.dumps(rows, indent=1))
    temporary = folder / f".scores.csv.{os.getpid()}.partial"
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, folder / "scores.csv")
    print("\n".join(lines), flush=True)
    print(f"tables, figures and predicted h5ad files are in {folder}", flush=True)


def main() -> None:
    try:
        auto_cli(run, as_positional=False)
    except (ValueError, FileNotFoundError) as error:
        if os.environ.get("EDGEWISE_TRACEBACK") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
