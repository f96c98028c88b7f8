"""The short commands of this model: ``edgewise generate``, ``interpolate``, ``encode``, ...

Each does what ``lightning predict``, ``test`` or ``fit`` does with the same options, bit for bit.
Heavy imports wait until a command runs.
"""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

from common.cli.command import Command

_CHECKPOINT = "runs/protein_cvae.ckpt"
_INPUT = ".pdb, .cif (also .gz), trajectory, or folder of a trajectory or of conformers"


def _common(parser: ArgumentParser, output: str) -> None:
    parser.add_argument("-o", "--output", required=True, help=output)
    parser.add_argument("--ckpt", type=Path, default=Path(_CHECKPOINT), help="trained model")
    parser.add_argument("--chains", default="longest", help="longest, all or IDs: A or A,B")
    parser.add_argument(
        "--incomplete",
        choices=("refuse", "drop"),
        default="refuse",
        help="residues that some model lacks",
    )
    parser.add_argument("--topology", help="of a trajectory file, if not the one beside it")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def _finish(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--finish",
        action=BooleanOptionalAction,
        default=True,
        help="make the geometry valid; --no-finish gives the decoder's own output",
    )
    parser.add_argument(
        "--atoms",
        choices=("auto", "heavy", "backbone"),
        default="auto",
        help="heavy: with side chains; backbone: N, CA, C, O; auto: heavy where it can be had",
    )


def _generate_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("input", help=_INPUT + ", .fasta")
    parser.add_argument("-n", "--count", type=int, default=20, help="conformers")
    parser.add_argument(
        "--mode",
        choices=("resample", "around", "prior", "sequence"),
        default="resample",
        help="what is drawn from",
    )
    parser.add_argument("--model-number", type=int, help="drawn around, or the template")
    parser.add_argument("--temperature", type=float, default=1.0, help="factor on the spread")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    told = parser.add_mutually_exclusive_group()
    told.add_argument(
        "--spread-rmsd", type=float, metavar="RMSD", help="mode prior: mean pairwise CA-RMSD, Å"
    )
    told.add_argument(
        "--spread-column",
        choices=("b_factor", "rmsf", "plddt"),
        help="mode prior: as wide as the input's B-factor column says, which holds this",
    )
    told.add_argument(
        "--spread-file", metavar="CSV", help="mode prior: RMSF in Å; columns chain, residue, rmsf"
    )
    parser.add_argument(
        "--spread-superposed",
        choices=("core", "all"),
        default="core",
        help="what that profile was superposed on",
    )
    _finish(parser)
    _common(parser, ".pdb or .cif file; provenance goes to the same name and .json")


def _generate(given: Namespace) -> None:
    options = _part("generation.generate").GenerateOptions(
        mode=given.mode,
        count=given.count,
        model=given.model_number,
        temperature=given.temperature,
        seed=given.seed,
        finish=given.finish,
        atoms=given.atoms,
        spread=_spread(given),
    )
    kind = _part("generation.commands.generate").GenerateDataModule
    _run(given, kind(given.output, given.input, options=options, **_shared(given)))


def _spread(given: Namespace) -> Any:
    told = {
        "rmsd": given.spread_rmsd,
        "column": given.spread_column,
        "file": given.spread_file,
    }
    if all(value is None for value in told.values()):
        return None
    options = _part("generation.spread").SpreadOptions
    return options(**told, superposed=given.spread_superposed)


def _interpolate_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("input", help="file of the first end, or of both")
    parser.add_argument("second", nargs="?", help="file of the second end")
    parser.add_argument("-n", "--steps", type=int, default=20, help="conformers, ends included")
    parser.add_argument("--first-model", type=int, help="number of the model at the first end")
    parser.add_argument("--second-model", type=int, help="number of the model at the second end")
    parser.add_argument(
        "--templates", choices=("both", "first"), default="both", help="decode from both ends?"
    )
    _finish(parser)
    _common(parser, ".pdb or .cif file; provenance goes to the same name and .json")


def _interpolate(given: Namespace) -> None:
    task = _part("generation.commands.interpolate")
    options = _part("generation.interpolate").InterpolateOptions(
        given.steps, given.templates, given.finish, given.atoms
    )
    ends = task.PathEnds(given.second, given.first_model, given.second_model)
    data = task.InterpolateDataModule(
        given.input, given.output, ends, options=options, **_shared(given)
    )
    _run(given, data)


def _encode_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("input", help=_INPUT)
    parser.add_argument(
        "--template", help="number of the model they are relative to, or a file with another one"
    )
    _common(parser, ".npz file; provenance goes to the same name and .json")


def _encode(given: Namespace) -> None:
    kind = _part("generation.commands.encode").EncodeDataModule
    template = given.template
    if template is not None and template.lstrip("-").isdigit():
        template = int(template)
    _run(given, kind(given.input, given.output, template, **_shared(given)))


def _sources(parser: ArgumentParser) -> None:
    parser.add_argument("ensembles", nargs="*", help="files, folders or patterns")
    parser.add_argument(
        "--conformers",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="folders or patterns whose files are the conformers of one protein",
    )
    parser.add_argument("--topology", help="of trajectory files, if not the one beside each")
    parser.add_argument("--chains", choices=("longest", "all"), default="longest")
    parser.add_argument("--skip-bad", action="store_true", help="leave out files that are refused")
    parser.add_argument(
        "--incomplete",
        choices=("refuse", "drop"),
        default="refuse",
        help="residues that not all models of a protein have",
    )


def _evaluate_arguments(parser: ArgumentParser) -> None:
    _sources(parser)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/protein_evaluation"))
    parser.add_argument("--ckpt", type=Path, default=Path(_CHECKPOINT), help="trained model")
    parser.add_argument("-n", "--count", type=int, default=100, help="conformers per protein")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--figures", type=int, default=8, help="proteins of a group that get some")
    parser.add_argument("--max-length", type=int, default=400, help="longest protein, residues")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def _evaluate(given: Namespace) -> None:
    settings = _part("evaluation.settings").EvaluationSettings(
        count=given.count, seed=given.seed, figures=given.figures
    )
    sources = _part("data.settings").Sources(max_length=given.max_length, **_files(given))
    model = _part("trained").load(given.ckpt, device=given.device)
    model.evaluate(given.ensembles, given.out, settings, sources=sources)


def _fit_arguments(parser: ArgumentParser) -> None:
    _sources(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--size", choices=("laptop", "full", "trajectory"), default="laptop")
    parser.add_argument("--epochs", type=int, help="instead of those of the size")
    parser.add_argument(
        "--families-held-out", nargs="+", default=[], metavar="NAME", help="kept out of training"
    )
    parser.add_argument("--accelerator", default="auto", help="auto, cpu or gpu")


def _fit(given: Namespace) -> None:
    model = _part("fitting").fit(
        given.ensembles,
        given.out,
        given.size,
        epochs=given.epochs,
        families_held_out=given.families_held_out,
        accelerator=given.accelerator,
        **_files(given),
    )
    print(f"wrote {model.checkpoint}", flush=True)


def _part(name: str) -> Any:
    return import_module(f"protein_cvae.{name}")


def _shared(given: Namespace) -> dict[str, Any]:
    reading = _part("generation.inputs").ReadingOptions(
        given.chains, given.incomplete, topology=given.topology
    )
    return {"reading": reading, "overwrite": given.overwrite}


def _files(given: Namespace) -> dict[str, Any]:
    return {
        "conformers": tuple(given.conformers),
        "topology": given.topology,
        "chains": given.chains,
        "skip_bad": given.skip_bad,
        "incomplete": given.incomplete,
    }


def _run(given: Namespace, data: Any) -> None:
    model = _part("trained").load(given.ckpt, device=given.device)
    _part("generation.commands.request").serve(data, model.network, given.ckpt)


COMMANDS: tuple[Command, ...] = (
    Command(("generate",), "new conformers of a protein", _generate_arguments, _generate),
    Command(
        ("interpolate",),
        "a path between two models of a protein",
        _interpolate_arguments,
        _interpolate,
    ),
    Command(("encode",), "the latents of an ensemble", _encode_arguments, _encode),
    Command(
        ("evaluate", "protein"),
        "score a trained protein model on held-out models",
        _evaluate_arguments,
        _evaluate,
    ),
    Command(("fit", "protein"), "train a protein model", _fit_arguments, _fit),
)
