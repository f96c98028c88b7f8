"""Short commands of ``edgewise``; ``lightning`` remains the way to every setting."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command import Command

if TYPE_CHECKING:
    from spatial_ipa.data.keys import SlideKeys

_KEYS = (
    "layer", "gene_key", "spatial_key", "section_key", "values", "keep_off_tissue",
    "drop_coincident",
)  # fmt: skip
_CHECKPOINT = Path("runs/spatial_ipa.ckpt")


def _add_keys(parser: argparse.ArgumentParser, *, slides: bool) -> None:
    """Options of :class:`spatial_ipa.data.keys.SlideKeys`; those of coordinates for slides."""
    parser.add_argument("--layer", help="layer of the counts; X by default, raw.X for AnnData.raw")
    parser.add_argument("--gene-key", help="column of var with the gene names; default: its index")
    parser.add_argument("--values", choices=["counts", "logged"], help="default: found out")
    parser.add_argument(
        "--keep-off-tissue", action="store_true", help="keep spots beside the tissue (in_tissue 0)"
    )
    if not slides:
        return
    parser.add_argument(
        "--spatial-key", metavar="KEY",
        help="key of the coordinates in obsm, or two columns of obs as x,y; spatial by default",
    )  # fmt: skip
    parser.add_argument(
        "--section-key", metavar="COLUMN",
        help="column of obs whose values are read as a slide each; one: all is one section",
    )  # fmt: skip
    parser.add_argument(
        "--drop-coincident", action="store_true",
        help="leave out spots that share their position with another",
    )  # fmt: skip


def _keys_of(given: argparse.Namespace) -> SlideKeys:
    from spatial_ipa.data.keys import SlideKeys

    names = [name for name in _KEYS if hasattr(given, name)]
    return SlideKeys(**{name: getattr(given, name) for name in names})


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, help="h5ad with expression")
    parser.add_argument("-o", "--output", type=Path, required=True, help="h5ad to write")
    parser.add_argument("--ckpt", type=Path, default=_CHECKPOINT, help="trained model")
    parser.add_argument("--kind", choices=["scrna", "st"], default="scrna")
    _add_keys(parser, slides=False)
    parser.add_argument("--draws", type=int, default=16, help="layouts averaged")
    parser.add_argument(
        "--hypotheses", type=int, default=1, help="weighted positions per cell, at most 3"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--coverage", type=float, default=0.9, help="of the error radii")
    parser.add_argument("--no-graph", action="store_true", help="leave the neighbour graph out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def _place(given: argparse.Namespace) -> None:
    from spatial_ipa.placing.command import CellDataModule
    from spatial_ipa.placing.load import load
    from spatial_ipa.placing.options import PlacementOptions

    options = PlacementOptions(
        num_draws=given.draws,
        num_hypotheses=given.hypotheses,
        write_graph=not given.no_graph,
        seed=given.seed,
        coverage=given.coverage,
    )
    data = CellDataModule(
        str(given.input),
        str(given.output),
        given.kind,
        options,
        _keys_of(given),
        given.overwrite,
    )
    data.read().run(load(given.ckpt, given.device), write=True)


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("slides", nargs="+", help="files, folders or patterns")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--validation", nargs="+", default=[], metavar="SLIDE")
    parser.add_argument("--scrna", nargs="+", default=[], metavar="SAMPLE")
    _add_keys(parser, slides=True)
    parser.add_argument("--scrna-layer", help="that of the samples; as --layer by default")
    parser.add_argument("--scrna-gene-key", help="that of the samples; as --gene-key by default")
    parser.add_argument("--scrna-values", choices=["counts", "logged"], help="default: found out")
    parser.add_argument("--size", choices=["laptop", "full"], default="laptop")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="further setting of lightning fit, such as model.init_args.network.c_s=64",
    )  # fmt: skip


def _fit(given: argparse.Namespace) -> None:
    from spatial_ipa.data.keys import SlideKeys
    from spatial_ipa.pipeline.fit import fit

    fit(
        given.slides,
        validation=given.validation,
        scrna=given.scrna,
        out=given.out,
        keys=_keys_of(given),
        scrna_keys=SlideKeys(given.scrna_layer, given.scrna_gene_key, values=given.scrna_values),
        size=given.size,
        epochs=given.epochs,
        seed=given.seed,
        overrides=[f"--{setting}" for setting in given.overrides],
    )
    print(f"wrote {given.out / 'spatial_ipa.ckpt'}", flush=True)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("slides", nargs="+", help="slides with coordinates; files or patterns")
    parser.add_argument("--ckpt", type=Path, default=_CHECKPOINT, help="trained model")
    parser.add_argument(
        "--train", nargs="+", default=[], metavar="SLIDE",
        help="training slides, to show regression and chance beside",
    )  # fmt: skip
    _add_keys(parser, slides=True)
    parser.add_argument("--draws", type=int, default=16, help="layouts averaged")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="CSV file of the scores")
    parser.add_argument(
        "--report", type=Path, metavar="FOLDER",
        help="write what the network attends to: figures, and tables of health checks",
    )  # fmt: skip


def _evaluate(given: argparse.Namespace) -> None:
    from common.files.atomic import atomic_path
    from common.files.outputs import prepare_output
    from spatial_ipa.data.read import as_slides
    from spatial_ipa.evaluation.health import write_health
    from spatial_ipa.placing.load import load

    if given.output is not None:
        prepare_output(given.output, "--output")
    if given.report is not None:
        prepare_output(given.report / "health.md", "--report")
    model = load(given.ckpt)
    scores = model.evaluate(
        given.slides,
        train=given.train,
        keys=_keys_of(given),
        num_draws=given.draws,
        seed=given.seed,
    )
    print(scores.to_string(index=False, float_format="{:.3f}".format), flush=True)
    if given.output is not None:
        with atomic_path(given.output) as temporary:
            scores.to_csv(temporary, index=False)
    if given.report is not None:
        slides = as_slides(given.slides, _keys_of(given), "slide")
        traces = [model.trace(slide, seed=given.seed) for slide in slides]
        print(write_health(traces, given.report), end="", flush=True)


COMMANDS: tuple[Command, ...] = (
    Command(("place",), "coordinates for the cells of an h5ad file", _add_place, _place),
    Command(("fit", "spatial"), "train spatial_ipa on slides", _add_fit, _fit),
    Command(
        ("evaluate", "spatial"), "score spatial_ipa on slides with coordinates",
        _add_evaluate, _evaluate,
    ),
)  # fmt: skip
