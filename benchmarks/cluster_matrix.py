"""What a cluster does to a training, on gloo processes under SLURM's variables: rows of a table.

    python benchmarks/cluster_matrix.py --out runs/cluster                     # all rows
    python benchmarks/cluster_matrix.py --out runs/cluster --models protein_cvae --ranks 2
    python benchmarks/cluster_matrix.py --out runs/cluster --scaling           # rates and steps
    python benchmarks/cluster_matrix.py --out runs/cluster --report cluster_matrix.md

Each fault meets a small fit in the middle of its second epoch of four steps; the same command is
then given again, as SLURM does, until the fit has come to its end.  "weights" is the largest
difference to the weights of a fit that nothing has met, 0 for bit for bit; "log" whether every
logged training loss is that of such a fit within 1e-6 of it, each step once, in one log folder.
"lost" are the steps that had been finished and were trained again.

Faults are signals that the processes send themselves (:class:`cluster_ranks.Fault`), so that they
come at a known moment, and one from outside.  Slides and proteins are three, which no number of
processes here divides.  With ``--scaling`` fits of 1, 2 and 4 processes over equal epochs are
compared under each rule of ``scaling`` (:mod:`common.training.scaling`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster_fits import MODELS, STEPS, SmallFit, difference, last_weights, logged, newest, small
from cluster_ranks import ROOT, Job, callback
from cluster_scaling import DRAWS, LENGTH, Scaled, scaled_rows

from common.files.atomic import atomic_path
from common.report.machine import describe_machine
from common.report.tables import markdown_table


@dataclass(frozen=True)
class Case:
    """What meets a fit.

    Attributes:
        name: of the row.
        fault: arguments of :class:`cluster_ranks.Fault`; None for a signal from outside.
    """

    name: str
    fault: Mapping[str, object] | None


def cases(world: int) -> list[Case]:
    """The faults of a job of ``world`` processes, after five of eight steps."""
    middle, last = STEPS + 1, world - 1

    def case(name: str, number: signal.Signals, step: int = middle, **more: object) -> Case:
        return Case(name, {"number": int(number), "step": step, **more})

    kill, term, requeue = signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1
    return [
        case("kill -9 of the last process", kill, rank=last),
        case("kill -9 of process 0", kill, rank=0),
        case("SIGUSR1 to all, requeued", requeue),
        case("SIGUSR1 at other moments of each", requeue, where="mixed"),
        case("SIGTERM to all", term),
        case("SIGTERM at other moments of each", term, where="mixed"),
        case("SIGTERM to the last process alone", term, rank=last),
        case("SIGTERM in the validation", term, STEPS, where="validation"),
        Case("scancel from outside", None),
    ]


@dataclass(frozen=True)
class Row:
    """One line of the table of faults.

    Attributes:
        model, processes, case: what was done.
        ended: exit statuses of the processes, by rank.
        waited: seconds between the end of the first process and that of the last.
        at, resumed_at: steps finished when the fault came, and in the checkpoint it went on from.
        requeued: calls of ``scontrol requeue``.
        folders: log folders of the run.
        weights: largest difference to the weights of the fit that nothing met.
        log: whether every logged loss is that of this fit.
    """

    model: str
    processes: str
    case: str
    ended: str
    waited: float
    at: int
    resumed_at: int
    requeued: int
    folders: int
    weights: float
    log: bool


class Faults:
    """The rows of one model on one number of processes.

    A launch of the processes goes on with the fit of the row before and then begins the next.

    Args:
        fit: of the model.
        folder: for everything.
        world, nodes: of the job.
    """

    def __init__(self, fit: SmallFit, folder: Path, world: int, nodes: int = 1) -> None:
        self.fit, self.folder, self.world, self.nodes = fit, folder, world, nodes
        self.job = Job(folder, 4000 + world * 10 + nodes, world, nodes)

    def command(self, name: str, *more: str) -> list[str]:
        """The command of a case, the same each time but for the fault."""
        out = self.folder / name
        return [*self.fit.arguments(out, small(self.fit)), *self.job.options, "--resume", *more]

    def rows(self, chosen: Sequence[Case]) -> Iterator[Row]:
        """Meet the fit with each of the faults."""
        before = self.command("whole")
        waiting: tuple[Case, Row] | None = None
        for number, case in enumerate(chosen):
            if waiting is not None:
                before = self.command(str(number - 1))
            faulty, cancel = self.faulty(number, case)
            calls = len(self.job.calls.read_text().splitlines()) if self.job.calls.exists() else 0
            ended = self.job.run(before, faulty, cancel=cancel)
            if waiting is not None:
                yield self.finished(number - 1, waiting[1])
            waiting = case, self.stopped(number, case, ended.codes, ended.seconds)
            waiting = case, _with(waiting[1], requeued=len(ended.requeued) - calls)
        if waiting is not None:
            ended = self.job.run(self.command(str(len(chosen) - 1)))
            assert set(ended.codes) == {0}, ended.printed[0][-3000:]
            yield self.finished(len(chosen) - 1, waiting[1])

    def faulty(self, number: int, case: Case) -> tuple[list[str], Path | None]:
        """The command that a fault meets, and the file that brings one from outside."""
        if case.fault is not None:
            return self.command(str(number), callback("Fault", **case.fault)), None
        sign = self.folder / str(number) / self.fit.name / "version_0/checkpoints/last.ckpt"
        return self.command(str(number), callback("Pace", seconds=1.0)), sign

    def stopped(self, number: int, case: Case, codes: list[int], waited: float) -> Row:
        out = self.folder / str(number)
        done = len(logged(out, "train/loss"))
        _, step = newest(out)
        where = f"{self.world} on {self.nodes} nodes" if self.nodes > 1 else str(self.world)
        return Row(
            self.fit.name, where, case.name, " ".join(map(str, codes)), waited, done, step,
            0, 0, float("nan"), False,
        )  # fmt: skip

    def finished(self, number: int, row: Row) -> Row:
        out, whole = self.folder / str(number), self.folder / "whole"
        wanted = last_weights(whole)
        return _with(
            row,
            folders=len(list((out / self.fit.name).iterdir())),
            weights=difference(wanted, last_weights(out)),
            log=_same_log(logged(out, "train/loss"), logged(whole, "train/loss")),
        )


def other_number(fit: SmallFit, folder: Path, first: int, then: int) -> Row:
    """A fit of ``first`` processes is cancelled and goes on with ``then``; ``scaling=batch``."""
    faults = Faults(fit, folder, first)
    case = Case(f"SIGTERM to all, goes on with {then}", {"number": 15, "step": STEPS + 1})
    command, _ = faults.faulty(0, case)
    ended = faults.job.run(command)
    row = faults.stopped(0, case, ended.codes, ended.seconds)
    after = Faults(fit, folder, then)
    ended = after.job.run(after.command("whole"), after.command("0"))
    assert set(ended.codes) == {0}, ended.printed[0][-3000:]
    return after.finished(0, row)


def torchrun(fit: SmallFit, folder: Path, world: int) -> Row:
    """torchrun starts all processes again after one has been killed."""
    faults = Faults(fit, folder, world)
    case = Case("kill -9 of the last process, torchrun", cases(world)[0].fault)
    ended = faults.job.run(faults.command("whole"))
    assert set(ended.codes) == {0}, ended.printed[0][-3000:]
    command, _ = faults.faulty(0, case)
    folders = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    # Without it torch 2.13 starts processes again over a store that holds the dead ones' addresses.
    fresh = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "PYTHONPATH": folders}
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc_per_node={world}", "--max_restarts=1", "-m", "common.cli", *command,
        ],
        cwd=folder, env=os.environ | fresh, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    at = re.search(r"resuming .* step (\d+)\)", done.stderr)
    assert at is not None, done.stderr[-3000:]
    row = Row(
        fit.name, str(world), case.name, str(done.returncode), 0.0, STEPS + 1, int(at[1]),
        0, 0, float("nan"), False,
    )  # fmt: skip
    return faults.finished(0, row)


def _same_log(a: list[tuple[int, float]], b: list[tuple[int, float]]) -> bool:
    steps = [step for step, _ in a] == [step for step, _ in b]
    return steps and all(abs(x - y) <= 1e-6 * abs(y) for (_, x), (_, y) in zip(a, b, strict=True))


def _with(row: Row, **changes: object) -> Row:
    return Row(**{**asdict(row), **changes})  # type: ignore[arg-type]


def _fault_line(row: Mapping[str, Any]) -> list[str]:
    weights = "bit for bit" if row["weights"] == 0 else f"{row['weights']:.1e}"
    return [
        row["model"], row["processes"], row["case"], row["ended"], f"{row['waited']:.1f}",
        str(row["at"] - row["resumed_at"]), str(row["requeued"]), str(row["folders"]), weights,
        "same" if row["log"] else "differs",
    ]  # fmt: skip


def _scaling_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        for key in dict.fromkeys((row["processes"], row["rule"]) for row in mine):
            found = [row for row in mine if (row["processes"], row["rule"]) == key]
            scores = [row["score"] for row in found]
            steps, mean = str(found[0]["steps"]), f"{sum(scores) / len(scores):.4f}"
            rule = "any" if key[0] == 1 else key[1]
            yield [
                model, str(key[0]), rule, steps, mean,
                ", ".join(f"{score:.4f}" for score in scores),
            ]  # fmt: skip


FAULT_COLUMNS = (
    "model", "processes", "what met it", "ended with", "last after first, s", "lost steps",
    "requeued", "log folders", "weights", "log",
)  # fmt: skip
SCALING_COLUMNS = ("model", "processes", "scaling", "steps", "score, mean", "each seed")


def report(out: Path) -> str:
    """The page of what the files in ``out`` hold."""
    faults = _read(out / "faults.jsonl")
    scaled = _read(out / "scaling.jsonl")
    machines = "; ".join(dict.fromkeys(row["machine"] for row in faults + scaled))
    intro, _, rest = str(__doc__).partition("\n\n")
    text = rest[rest.index("Each fault") :].replace(":class:", "").replace(":mod:", "")
    return "\n".join(
        [
            "# Faults and numbers of processes",
            "",
            f"Made by `benchmarks/cluster_matrix.py` on {machines}. {intro}",
            "",
            text.strip(),
            "",
            "## Faults",
            "",
            markdown_table(FAULT_COLUMNS, map(_fault_line, faults)),
            "",
            "## Rates and steps",
            "",
            f"{LENGTH} epochs of {DRAWS} draws, 4 in a step of one process. Scores at the end: "
            "`val/e_geo_own_graph` of spatial_ipa, `val/loss` of protein_cvae; smaller is better.",
            "",
            markdown_table(SCALING_COLUMNS, _scaling_lines(scaled)),
            "",
        ]
    )


def _append(path: Path, row: Row | Scaled) -> None:
    line = json.dumps(asdict(row) | {"machine": describe_machine("lightning")})
    print(line, flush=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of fits and rows")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--ranks", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--cases", nargs="+", default=[], help="parts of names; none: all")
    parser.add_argument("--scaling", action="store_true", help="compare the rules of scaling")
    parser.add_argument("--seeds", type=int, default=2, help="of the comparison")
    parser.add_argument(
        "--report", type=Path, help="write the page of the rows so far, run nothing"
    )
    given = parser.parse_args(arguments)
    if given.report is not None:
        with atomic_path(given.report) as temporary:
            temporary.write_text(report(given.out), "utf-8")
        return
    out = given.out.resolve()
    for name in given.models:
        (out / name / "data").mkdir(parents=True, exist_ok=True)
        fit = MODELS[name](out / name / "data")
        if given.scaling:
            for scaled in scaled_rows(
                fit, _fresh(out / name / "scaling"), [1, *given.ranks], given.seeds
            ):
                _append(out / "scaling.jsonl", scaled)
            continue
        for row in fault_rows(fit, out / name, given.ranks, given.cases):
            _append(out / "faults.jsonl", row)


def fault_rows(
    fit: SmallFit, folder: Path, ranks: Sequence[int], parts: Sequence[str]
) -> Iterator[Row]:
    """The chosen rows of one model."""

    def chosen(name: str) -> bool:
        return not parts or any(part in name for part in parts)

    for world in ranks:
        found = [case for case in cases(world) if chosen(case.name)]
        yield from Faults(fit, _fresh(folder / f"faults_{world}"), world).rows(found)
    if chosen("two nodes"):
        yield from Faults(fit, _fresh(folder / "nodes"), 4, 2).rows(cases(4)[:1])
    if chosen("torchrun"):
        yield torchrun(fit, _fresh(folder / "torchrun"), 2)
    if chosen("goes on with"):
        for first, then in ((2, 1), (2, 4)):
            yield other_number(fit, _fresh(folder / f"other_{then}"), first, then)


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    main()
