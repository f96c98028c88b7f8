"""Fits of 1, 2 and 4 processes over equal epochs, under each rule of ``scaling``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster_fits import SmallFit, logged
from cluster_ranks import Job

RULES = ("none", "batch", "sqrt", "linear")
LENGTH, DRAWS = 8, 32  # epochs, and draws in each


@dataclass(frozen=True)
class Scaled:
    """The end of a fit under a rule of scaling.

    Attributes:
        model, processes, rule, seed: what was done.
        steps: of the optimizer.
        score: the model's, at the end.
    """

    model: str
    processes: int
    rule: str
    seed: int
    steps: int
    score: float


def scaled_rows(fit: SmallFit, folder: Path, worlds: Sequence[int], seeds: int) -> Iterator[Scaled]:
    """Fits of equal epochs under each rule; with one process all rules are one."""
    group = fit.batch.rpartition(".")[0]
    many = {"val_per_slide": 20} if fit.name == "spatial_ipa" else {}
    for world in worlds:
        job = Job(folder, 5000 + world, world)
        rules = RULES if world > 1 else RULES[:1]
        runs = {
            (rule, seed): folder / f"{world}_{rule}_{seed}"
            for rule in rules
            for seed in range(seeds)
        }
        commands = []
        for (rule, seed), out in runs.items():
            changes = {
                fit.batch: 4,
                fit.scaling: rule,
                f"{group}.per_epoch": DRAWS,
                f"{group}.seed": seed,
                "seed_everything": seed,
                "trainer.max_epochs": LENGTH,
                "trainer.check_val_every_n_epoch": LENGTH,
                **{f"{group}.{key}": value for key, value in many.items()},
            }
            commands.append([*fit.arguments(out, changes), *job.options])
        ended = job.run(*commands, timeout=3600)
        assert set(ended.codes) == {0}, ended.printed[0][-3000:]
        for (rule, seed), out in runs.items():
            steps = len(logged(out, "train/loss"))
            yield Scaled(fit.name, world, rule, seed, steps, logged(out, fit.score)[-1][1])
