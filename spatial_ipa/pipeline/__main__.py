"""The whole main job in one command: slides in, trained model, scores, figure and maps out.

    python -m spatial_ipa.pipeline                                    # simulated tissue
    python -m spatial_ipa.pipeline --slides 'A*.h5ad' --holdout B.h5ad --out runs/mine

Stages: simulate (only without slides), encoder, joint training with gate pretraining, evaluation on
the held-out slides beside regression of coordinates, prediction.  Error radii are calibrated on the
validation slides; how far expression fixes position at all is reported for validation and held-out
slides.  The training stages are the same ``lightning fit`` commands a user would type.  A stage
whose inputs have not changed is reused: contents of the slides by role, configs, seed.  Everything
is written under ``--out``.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import auto_cli
from jsonargparse.typing import PositiveInt

from common.cli.messages import one_line_errors
from common.cli.process import prepare_process
from common.errors import ExistingFile, UserError
from common.files.lists import Texts, one_or_several
from spatial_ipa.data.anndata_file import require_copyable
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.panels import gene_panel
from spatial_ipa.data.read import read_slide
from spatial_ipa.data.run import MEMORY_MB, read_run
from spatial_ipa.data.simulation.files import TissueSpec, ensure_tissue
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.split import check_split
from spatial_ipa.encoder.cache import embed
from spatial_ipa.encoder.frozen import load_encoder
from spatial_ipa.encoder.stage import EncoderInputs
from spatial_ipa.evaluation.health import write_health
from spatial_ipa.evaluation.report import JudgedSlide, write_identifiability
from spatial_ipa.geometry.metrics import MIN_POINTS
from spatial_ipa.geometry.neighbours import FULL_SIZE
from spatial_ipa.pipeline.scoring import Scoring, file_name
from spatial_ipa.pipeline.stages import Stopwatch, Training, stage_content
from spatial_ipa.placing.load import load

LAPTOP = ("configs/spatial_ipa/fit.yaml", "configs/spatial_ipa/laptop.yaml")
# The simulated tissue is easy: half of the epochs do.
QUICKSTART = (*LAPTOP, "configs/spatial_ipa/quickstart.yaml")
QUICK_ENCODER = ("--trainer.max_epochs=5",)


def run(
    slides: Texts | None = None,
    holdout: Texts | None = None,
    validation: Texts | None = None,
    scrna: Texts | None = None,
    out: str = "runs/quickstart",
    encoder_config: str = "configs/spatial_ipa/encoder.yaml",
    encoder_overrides: Texts | None = None,
    configs: tuple[str, ...] | str | None = None,
    overrides: Texts | None = None,
    threads: PositiveInt | None = None,
    keys: SlideKeys = SlideKeys(),
    scrna_keys: SlideKeys = SlideKeys(),
    tissue: TissueSpec = TissueSpec(num_slides=5),
    num_draws: int = 16,
    max_scored: int = FULL_SIZE,
    seed: int = 0,
    backend: str | None = None,
    memory_mb: float | None = MEMORY_MB,
) -> None:
    """Train on slides, score on held-out slides, predict.

    Args:
        slides: training slides (files, folders, patterns; one or a list, as all lists here);
            simulated tissue when left out.
        holdout: slides to score on, used for nothing else; without them nothing is scored.
        validation: further slides that choose the epoch and calibrate the error radii; without
            them the last epoch is kept and there are no radii.
        scrna: dissociated samples to place (files, folders, patterns); the encoder is aligned with
            their expression, too.
        out: folder of everything written.
        encoder_config: config of the encoder stage; it and those below must name a logger.
        encoder_overrides: further ``lightning fit`` arguments of the encoder stage.
        configs: config of the joint stage and its overlays; ``fit.yaml`` and ``laptop.yaml`` of
            ``configs/spatial_ipa`` when left out, and ``quickstart.yaml`` for simulated tissue.
        overrides: further ``lightning fit`` arguments of the joint stage.
        threads: compute threads of every stage; those of the configs when left out, which is one
            at laptop size, and all cores for scoring.
        keys: where in a slide's file matrix, gene names and coordinates are, and what is read.
        scrna_keys: where in the files of ``scrna`` they are; as ``keys`` where null.
        tissue: the simulated tissue.
        num_draws: layouts averaged per prediction; error radii need as many as calibrated with
            (``model.init_args.calibration_draws``, 16).
        max_scored: larger slides are scored on so many random spots, and the regressions beside
            learn from no more: the energy of a whole slide has about 0.15 n^2 edges, and support
            vector regression is no faster.
        seed: of the simulation-independent parts: training and placement.
        backend: of the sparse operations: auto, triton, cpp, torch or reference; null for what the
            variable EDGEWISE_BACKEND says.
        memory_mb: counts of all slides are kept in memory up to so many MB (8 bytes an entry);
            beyond, each is read from its file when it is needed.  null: always kept.
    """
    prepare_process(backend, threads)
    if max_scored < MIN_POINTS:
        raise UserError(f"max_scored must be at least {MIN_POINTS}, got {max_scored}")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ExistingFile(f"out={folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    watch = Stopwatch()
    truth: Path | None = None
    encoder_overrides = one_or_several(encoder_overrides or [])
    layers = one_or_several(configs or (QUICKSTART if slides is None else LAPTOP))
    if slides is None:
        if tissue.num_slides < 3:
            raise UserError(
                "tissue.num_slides must be at least 3, to train, choose the epoch and score; got "
                f"{tissue.num_slides}"
            )
        watch.start("simulate")
        print(f"[1/4] simulated tissue in {folder / 'tissue'}", flush=True)
        encoder_overrides = [*QUICK_ENCODER, *encoder_overrides]
        written = ensure_tissue(tissue, folder / "tissue")
        names = [str(path) for path in written.slides]
        slides, validation, holdout = names[:-2], names[-2:-1], names[-1:]
        scrna, truth = [str(written.scrna)], written.truth
    else:
        watch.start("read")
        print("[1/4] slides as given", flush=True)
    slides, holdout = one_or_several(slides), one_or_several(holdout or [])
    validation, scrna = one_or_several(validation or []), one_or_several(scrna or [])
    if not holdout:
        print("      nothing is held out (holdout), so nothing will be scored", flush=True)

    scrna_keys = scrna_keys.or_else(keys)
    read = read_run(
        slides, validation, holdout, scrna, keys=keys, scrna_keys=scrna_keys, memory_mb=memory_mb
    )
    train, choosing, test = read.train, read.validation, read.heldout_slides
    for path in [path for path, _ in (*read.holdout, *read.scrna)]:
        require_copyable(path)
    _refuse_equal_outputs(choosing + test + read.samples)
    gene_panel(train + choosing + test)
    print(*(f"      {line}" for line in read.lines()), sep="\n", flush=True)
    read.write(folder / "slides.json")

    content = stage_content(train, choosing, test, read.samples)
    files = [str(path) for path, _ in read.scrna]
    inputs = EncoderInputs(slides, validation + holdout, files, keys, scrna_keys, memory_mb)
    given = [] if threads is None else [f"--threads={threads}"]
    training = Training(
        folder,
        encoder_config,
        [*given, *encoder_overrides],
        layers,
        inputs,
        validation,
        [*given, *one_or_several(overrides or [])],
        seed,
        content,
    )
    watch.start("encoder")
    print("[2/4] encoder", flush=True)
    if not training.encoder():
        print(f"      reused {training.encoder_file}", flush=True)
    encoder = load_encoder(training.encoder_file)
    watch.start("gate and model")
    print("[3/4] gate and model", flush=True)
    check_split(encoder.split, train, choosing + test)
    if not training.model(encoder):
        print(f"      reused {training.checkpoint}", flush=True)
    watch.start("evaluation and prediction")
    print("[4/4] evaluation and prediction", flush=True)
    placer = load(training.checkpoint)
    if placer.encoder.weights_hash != encoder.weights_hash:
        raise UserError(
            f"{training.checkpoint} was not trained on embeddings of {training.encoder_file}; "
            "delete both, or choose another out"
        )
    scoring = Scoring(placer, folder, num_draws, max_scored, seed)
    for path, group in read.holdout:
        # The file has all its rows, also the empty ones, which scoring leaves out.
        every = read_slide(path, keys, require_spatial=False, min_spots=2, name=path.stem)
        for slide in group:
            scoring.evaluate(slide, train)
            scoring.predict(slide, every, path, alone=len(group) == 1)
    for file, sample in read.scrna:
        scoring.place_sample(sample, file, truth)
    scoring.write_table()
    if scoring.traces:
        print(write_health(scoring.traces, folder), end="", flush=True)
    judged = [
        JudgedSlide(s.name, role, embed(encoder, s, "st", folder / "cache"), s.xy)
        for role, members in (("validation", choosing), ("held out", test))
        for s in members
        if s.xy is not None
    ]
    if judged:
        print(write_identifiability(judged, scoring.radii, folder), end="", flush=True)
    print(f"time: {watch.report()}")
    print(f"tables, figures and predicted h5ad files are in {folder}", flush=True)


def _refuse_equal_outputs(slides: list[Slide]) -> None:
    names = [file_name(slide) for slide in slides]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"validation, holdout and scrna hold more than one file named {', '.join(twice)}; what "
            "is written about them would overwrite each other: rename the files"
        )


def main() -> None:
    with one_line_errors():
        auto_cli(run, as_positional=False)


if __name__ == "__main__":
    main()
