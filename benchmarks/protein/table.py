"""The results table of protein_cvae: rivals and a trained model on the same held-out models.

    python benchmarks/protein/table.py run --config configs/protein_cvae/fit.yaml \
        --ckpt runs/protein_cvae.ckpt --out runs/protein_table
    python benchmarks/protein/table.py report --out runs/protein_table

``run`` trains nothing.  It reads the ``data`` section of the configurations (several are laid
over each other, as for ``lightning``), makes the cases of ``lightning test``, and appends all rows
of one protein and one maker to ``<out>/results.jsonl`` at once; what is there already is skipped,
so it can be stopped and restarted: of the same settings, split and, of networks, weights.  Without
``--ckpt`` only the rivals are run.  With ``--untrained`` the network of the ``model`` section is
judged, too, with the weights it has before training: what it does as well as the trained one was
not learned.

Every maker gets the same given models of a protein (the training's, or the same share of an unseen
protein) and is scored by the same code against the judged models.  "constraints" is the projection
alone, "finish" the same output layer as ours.  Our prior sees one structure, the central given
model, and the sequence; the network model moves one too, but with the amplitude of the given
models.  ``report`` prints a table per group, means over the proteins that every maker has, and the
field's panel; it fails with status 1 where a trained model stands without the untrained one.
Ensembles made elsewhere are added by ``outside.py``.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from experiment import (
    OUTSIDE,
    UNTRAINED,
    check_one_experiment,
    experiment,
    finished,
    merged,
    read,
    read_cases,
    read_model,
    untrained_network,
)
from torch import Tensor

from common.errors import UserError
from common.files.identity import tensor_hash
from common.report.machine import describe_machine, machines_of
from common.report.tables import to_json_lines
from common.rng import generator_for
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.baselines import (
    network_reconstruction,
    network_sampling,
    noise_sampling,
    pca_reconstruction,
    pca_sampling,
)
from protein_cvae.evaluation.panel_table import panel_table
from protein_cvae.evaluation.score_protein import case_key, evaluate_case
from protein_cvae.evaluation.scores import Reconstruction, reconstruction, score_conformers
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.evaluation.tables import (
    GROUPS,
    Row,
    case_rows,
    conformer_row,
    mean,
    method_table,
    reconstruction_row,
    reconstruction_table,
)
from protein_cvae.generation.finisher import geometry_finisher
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.refine import FinishOptions
from protein_cvae.geometry.superposition import pairwise_rmsd
from protein_cvae.model.network import ProteinCVAE

OURS = "ours"
# Of conformers, in the order of the table.  "resample" and "prior" come from the model.
METHODS = {
    "real": "the real given models",
    "noise": "independent noise",
    "network + constraints": "elastic network + constraints",
    "network on the core + constraints": "elastic network as wide as the core + constraints",
    "network + finish": "elastic network + our finish",
    "pca + constraints": "PCA sampling + constraints",
    "pca + finish": "PCA sampling + our finish",
    "resample": "given models resampled",
    "prior": "ours, prior (one structure)",
    "untrained resample": "given models resampled, untrained network",
    "untrained prior": "untrained network, prior (one structure)",
}
REBUILT = {
    "real": "nearest given model, by all CA",
    "network + constraints": "elastic network + constraints",
    "pca + constraints": "PCA + constraints",
    "template": "ours",
    "no template": "ours, no template",
    "untrained template": "untrained network",
    "untrained no template": "untrained network, no template",
}
COLUMNS = {
    "spread_ratio_c": "spread ratio c",
    "spread_ratio_a": "spread ratio a",
    "min_rmsd_c": "minRMSD c",
    "min_rmsd_a": "minRMSD a",
    "coverage_c": "covered c",
    "precision_c": "precision c",
    "precision_a": "precision a",
    "wasserstein_c": "PCA W₂ c",
    "rmsf_correlation_a": "RMSF r",
    "bond_rms": "bond Å",
    "angle_rms": "angle °",
    "inside": "inside 4 sd",
    "broken": "peptide > 1.4 Å",
    "favoured": "Rama favoured",
    "outlier": "Rama outliers",
    "positive_phi": "φ > 0",
    "clash": "clash",
    "valid": "valid",
    "seconds": "s per conformer",
}
SAMPLERS = {"noise": noise_sampling, "network": network_sampling, "pca": pca_sampling}
_BY_NETWORK = ("resample", "prior", "untrained resample", "untrained prior")
RIVALS = tuple(name for name in METHODS if name not in _BY_NETWORK)


class Rivals:
    """The rivals on one case; ``made`` and ``rebuilt`` by name."""

    def __init__(self, case: EvaluationCase, count: int, seed: int, on_core: bool) -> None:
        self.case, self.count, self.seed = case, count, seed
        self.training = case.coordinates[list(case.given)]
        self.weights = torch.ones(case.prepared.ensemble.length)
        if on_core and case.core is not None:
            self.weights = case.core.float()

    def made(self, name: str) -> tuple[Tensor, float]:
        """Conformers (K, L, 3, 3) and seconds per conformer."""
        start = time.perf_counter()
        if name == "real":
            return self.training, float("nan")
        base, _, treatment = name.partition(" + ")
        base, _, on_core = base.partition(" on the ")
        weights = self.weights
        if on_core and self.case.core is not None:
            weights = self.case.core.float()
        # The same draws whatever is done with them.
        generator = generator_for(self.seed, case_key(self.case.name), list(SAMPLERS).index(base))
        x = SAMPLERS[base](self.training, weights, self.count, generator)
        if treatment:
            x = self.treated(x, treatment)
        return x, (time.perf_counter() - start) / self.count

    def rebuilt(self, name: str) -> Reconstruction | None:
        """Reconstruction of the judged models by what the rival can express; None if it cannot."""
        wanted = self.case.coordinates[list(self.case.judged)]
        if name == "real":
            nearest = pairwise_rmsd(self.training[:, :, CA], wanted[:, :, CA]).argmin(0)
            return reconstruction(self.training[nearest], self.case)
        if name == "pca + constraints":
            x = pca_reconstruction(self.training, self.weights, wanted)
        elif name == "network + constraints":
            start = self.case.coordinates[self.case.prepared.central]
            x = network_reconstruction(start, self.weights, wanted)
        else:
            return None
        return reconstruction(self.treated(x, "constraints"), self.case)

    def treated(self, x: Tensor, treatment: str) -> Tensor:
        """Through our projection alone ("constraints") or our whole output layer ("finish")."""
        options = FinishOptions(steps=0) if treatment == "constraints" else None
        return finished(x, self.case, options)


def rival_rows(
    case: EvaluationCase, name: str, settings: EvaluationSettings, on_core: bool
) -> list[Row]:
    """All rows of one rival on one case."""
    rivals, head = Rivals(case, settings.count, settings.seed, on_core), case.head
    made, seconds = rivals.made(name)
    rows = [conformer_row(head, name, score_conformers(made, case, settings.threshold, seconds))]
    rebuilt = rivals.rebuilt(name)
    return rows if rebuilt is None else [*rows, reconstruction_row(head, name, rebuilt)]


def network_rows(
    case: EvaluationCase, network: ProteinCVAE, settings: EvaluationSettings, mark: str = ""
) -> list[Row]:
    """All rows of a network on one case, but those of the real models.

    Args:
        case: the protein.
        network: trained or not.
        settings: of the draws.
        mark: stands before the names of its methods.
    """
    result, _ = evaluate_case(network, case, settings, geometry_finisher())
    rows = case_rows(result)
    rows = [row for row in rows if (row["kind"], row.get("method")) != ("conformers", "real")]
    return [
        {**row, "method": f"{mark} {row['method']}".strip()} if "method" in row else row
        for row in rows
    ]


def run(options: argparse.Namespace) -> None:
    """Append what is missing to results.jsonl."""
    torch.set_num_threads(options.threads)
    config = merged(options.config)
    data, cases = read_cases(config)
    makers: dict[str, Callable[[EvaluationCase], list[Row]]] = {}
    weights: dict[str, str] = {}
    settings = EvaluationSettings(
        count=options.count,
        bandwidth=options.bandwidth,
        seed=options.seed,
        figures=0,
        rates=(),  # benchmarks/protein/rates.py
    )
    for name in RIVALS:
        makers[name] = partial(rival_rows, name=name, settings=settings, on_core=options.core)
    if options.ckpt is not None:
        module = read_model(options.ckpt, data, options.device)
        maker = f"{OURS} {options.tag}".strip()
        makers[maker] = partial(network_rows, network=module.model, settings=settings)
        weights[maker] = tensor_hash(module.model.state_dict())
    if options.untrained:
        network = untrained_network(config, options.seed, options.device)
        makers[UNTRAINED] = partial(
            network_rows, network=network, settings=settings, mark=UNTRAINED
        )
        weights[UNTRAINED] = tensor_hash(network.state_dict())
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    # Settings, split and weights belong to the key: a row is never taken for one of another
    # experiment or model.
    key = experiment(settings, options.core, data)
    done = {
        (r["protein"], r["maker"], r.get("weights"), r["settings"], r["split"]) for r in read(path)
    }
    for case in cases:
        if options.proteins and case.name not in options.proteins:
            continue
        for maker, make in makers.items():
            if (case.name, maker, weights.get(maker), *key.values()) in done:
                continue
            start = time.perf_counter()
            origin = {"maker": maker, "machine": describe_machine()}
            origin |= {"weights": weights[maker]} if maker in weights else {}
            rows = [{**row, **origin, **key} for row in make(case)]
            with path.open("a", encoding="utf-8") as file:
                file.write(to_json_lines(rows, escape=True))
            seconds = time.perf_counter() - start
            made = [row for row in rows if row["kind"] == "conformers"]
            values = " ".join(f"{mean(made, k):.3f}" for k in ("min_rmsd_c", "min_rmsd_a", "valid"))
            print(f"{case.group} {case.name} {maker}: {values} ({seconds:.0f} s)", flush=True)


def report(options: argparse.Namespace) -> None:
    """Print the tables, per group.

    Raises:
        ValueError: if the rows are of several experiments or models, or a table has a trained
            model without the untrained one; what there is has been printed.
    """
    path = options.out / "results.jsonl"
    rows = read(path)
    if options.proteins:
        rows = [row for row in rows if row["protein"] in options.proteins]
    ours = f"{OURS} {options.tag}".strip()
    rows = [
        row
        for row in rows
        if row["maker"] in (*RIVALS, UNTRAINED, ours) or row["maker"].startswith(f"{OUTSIDE} ")
    ]
    check_one_experiment(rows, path)
    outside = [row["maker"] for row in rows if row["maker"].startswith(f"{OUTSIDE} ")]
    methods = METHODS | {maker: maker.removeprefix(f"{OUTSIDE} ") for maker in outside}
    print(f"{machines_of(rows)}\n{' '.join(sys.argv)}\n")
    lacking = []
    for group, title in GROUPS.items():
        mine = [row for row in rows if row["group"] == group]
        makers = {row["maker"] for row in mine}
        if missing := without_untrained(mine, ours):
            lacking.append(f"{title}: {', '.join(missing)}")
        # Means are over the same proteins in every line.
        complete = [
            protein
            for protein in dict.fromkeys(row["protein"] for row in mine)
            if {row["maker"] for row in mine if row["protein"] == protein} == makers
        ]
        mine = [row for row in mine if row["protein"] in complete]
        if mine:
            print(f"### {title}\n\n{method_table(mine, methods, COLUMNS)}\n")
            print(f"{panel_table(mine, methods)}\n")
            print(f"{reconstruction_table(mine, REBUILT)}\n")
    if lacking:
        raise UserError(
            f"{path}: the trained model stands without the untrained one, so that nobody sees what "
            f"learning brings ({'; '.join(lacking)}); run these proteins again with --untrained"
        )


def without_untrained(rows: Sequence[Row], ours: str) -> list[str]:
    """Proteins that the trained model was judged on and the untrained one was not."""
    proteins = {
        maker: [row["protein"] for row in rows if row["maker"] == maker]
        for maker in (ours, UNTRAINED)
    }
    return [p for p in dict.fromkeys(proteins[ours]) if p not in proteins[UNTRAINED]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--config", type=Path, action="append", help="as for lightning; repeatable")
    parser.add_argument("--ckpt", type=Path, help="trained model; rivals alone if omitted")
    parser.add_argument("--untrained", action="store_true", help="the network before training, too")
    parser.add_argument("--tag", default="", help="name of this model in the results")
    parser.add_argument("--out", type=Path, default=Path("runs/protein_table"))
    parser.add_argument("--proteins", nargs="+", help="only these")
    parser.add_argument("--count", type=int, default=100, help="conformers per protein")
    parser.add_argument("--bandwidth", type=float, default=EvaluationSettings.bandwidth)
    parser.add_argument("--core", action="store_true", help="rivals superpose on the core")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if options.command == "run" and not options.config:
        parser.error("run needs --config")
    warnings.filterwarnings("ignore", module="lightning")
    try:
        run(options) if options.command == "run" else report(options)
    except UserError as error:
        sys.exit(f"table: {error}")


if __name__ == "__main__":
    main()
