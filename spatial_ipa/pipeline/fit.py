"""Training from Python: slides in, a model that places cells out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from anndata import AnnData

from common.errors import ExistingFile, UserError
from common.files.atomic import atomic_path
from common.files.configs import shipped_config
from common.files.lists import one_or_several
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.run import MEMORY_MB, read_run
from spatial_ipa.data.split import check_split
from spatial_ipa.encoder.frozen import load_encoder
from spatial_ipa.encoder.stage import EncoderInputs
from spatial_ipa.pipeline.stages import Training, stage_content
from spatial_ipa.placing.load import load
from spatial_ipa.placing.placer import Placer

Sources: TypeAlias = Sequence[str | Path | AnnData] | str | Path | AnnData
"""Files, folders, glob patterns or AnnData objects; one of them or several."""

Size = Literal["laptop", "full"]


def fit(
    slides: Sources,
    *,
    validation: Sources = (),
    scrna: Sources = (),
    out: str | Path,
    keys: SlideKeys = SlideKeys(),
    scrna_keys: SlideKeys = SlideKeys(),
    size: Size = "laptop",
    epochs: int | None = None,
    seed: int = 0,
    overrides: Sequence[str] | str = (),
    memory_mb: float | None = MEMORY_MB,
) -> Placer:
    """Train encoder, gate and network, as ``lightning fit`` does with the shipped configurations.

    Args:
        slides: training slides with counts and coordinates.
        validation: further slides, which choose the epoch and calibrate the error radii; without
            them the last epoch is kept and there are no radii.
        scrna: dissociated samples that the encoder is aligned with.
        out: folder of everything written; the model is ``out/spatial_ipa.ckpt``, and
            ``out/slides.json`` says what was read.  A stage whose inputs have not changed is not
            run again.
        keys: where in the slides matrix, gene names and coordinates are, and what is read.
        scrna_keys: where in the samples they are; as ``keys`` where None.
        size: ``laptop`` for two cores and minutes, ``full`` for a GPU.
        epochs: of the joint training; 10 (laptop) or 30 (full) if None.
        seed: of initial weights and all draws.
        overrides: further arguments of ``lightning fit`` for the joint training, such as
            ``["--model.init_args.network.c_s=64"]``.
        memory_mb: counts of all slides are kept in memory up to so many MB (8 bytes an entry);
            beyond, each is read from its file when it is needed.  None: always kept.

    Returns:
        The model, as :func:`spatial_ipa.load` gives it.

    Raises:
        ValueError: on slides that cannot be used, or if a stage fails; its message stands above.

    Example:
        >>> import spatial_ipa
        >>> model = spatial_ipa.fit(
        ...     example_files[:2], validation=example_files[2:3], out=example_out, epochs=1,
        ...     seed=3, overrides=example_overrides,
        ... )
        >>> len(model.encoder.panel)
        120
    """
    if size not in ("laptop", "full"):
        raise UserError(f"size must be laptop or full, got {size!r}")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ExistingFile(f"out={folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    train = _files(slides, folder / "inputs", "slide")
    val = _files(validation, folder / "inputs", "validation")
    cells = _files(scrna, folder / "inputs", "scrna")
    scrna_keys = scrna_keys.or_else(keys)
    read = read_run(train, val, scrna=cells, keys=keys, scrna_keys=scrna_keys, memory_mb=memory_mb)
    read.write(folder / "slides.json")
    names = ("encoder", "fit", *(["laptop"] if size == "laptop" else []))
    encoder_config, *configs = (str(shipped_config(f"spatial_ipa/{name}.yaml")) for name in names)
    training = Training(
        folder,
        encoder_config,
        [],
        configs,
        EncoderInputs(train, val, cells, keys, scrna_keys, memory_mb),
        val,
        [
            *one_or_several(overrides),
            *([] if epochs is None else [f"--trainer.max_epochs={epochs}"]),
        ],
        seed,
        stage_content(read.train, read.validation, [], read.samples),
    )
    training.encoder()
    encoder = load_encoder(training.encoder_file)
    check_split(encoder.split, read.train, read.validation)
    training.model(encoder)
    return load(training.checkpoint)


def _files(sources: Sources, folder: Path, role: str) -> list[str]:
    """Paths as they are; AnnData objects as files written to ``folder``, named by their role."""
    given: list[str | Path | AnnData] = one_or_several(sources)
    paths = []
    for number, source in enumerate(given):
        if not isinstance(source, AnnData):
            paths.append(str(source))
            continue
        folder.mkdir(exist_ok=True)
        path = folder / f"{role}_{number}.h5ad"
        with atomic_path(path) as temporary:
            source.write_h5ad(temporary)
        paths.append(str(path))
    return paths
