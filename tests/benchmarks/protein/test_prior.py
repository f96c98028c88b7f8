"""The benchmark of draws from one structure: makers, seeds, ratios."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def prior(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("protein/prior")


def rows_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_every_maker_has_a_row_once_and_seeds_are_taken_together(
    prior: ModuleType,
    config: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = ["--out", str(tmp_path)]
    run = ["run", "--config", str(config), "--ckpt", str(checkpoint), "--count", "3", *out]
    first = [*run, "--tag", "a", "--makers", prior.COPIED, prior.UNTRAINED, prior.TRAINED]
    prior.main(first)
    prior.main(first)
    assert len(rows_of(tmp_path)) == 2 * 3  # nothing is run again
    prior.main([*run, "--tag", "a", "--told"])
    prior.main([*run, "--tag", "b", "--seed", "1", "--makers", prior.TRAINED, prior.NO_TAILS])
    rows = rows_of(tmp_path)
    assert len({(r["weights"], r["split"]) for r in rows}) == 1
    with pytest.raises(ValueError, match="rows of other weights under the tag 'a'"):
        prior.check_one_model(rows, "a", {"weights": "other", "split": rows[0]["split"]}, tmp_path)
    makers = {(row["tag"], row["maker"]) for row in rows}
    of_b = (prior.TRAINED, prior.NO_TAILS)
    assert makers == {*(("a", m) for m in prior.MAKERS), *(("b", m) for m in of_b)}
    assert len(rows) == 2 * len(makers)
    # The whole width is wider, and what is told of the spread is reached.
    by = {(r["protein"], r["maker"]): r for r in rows if r["tag"] == "a"}
    for protein in ("simulated_0_0", "simulated_0_1"):
        spread = {m: by[protein, m]["spread_ratio_a"] for m in prior.MAKERS if m != prior.COPIED}
        assert spread[prior.LAW] > spread[prior.UNTRAINED] > 0
        told = spread["told all, about the template"], spread["told all, about the medoid"]
        assert told == pytest.approx((1.0, 1.0), abs=0.5)

    capsys.readouterr()
    prior.main(["report", "--tags", "a", "b", *out])
    printed = capsys.readouterr().out
    assert printed.count("(1 proteins, 2 seeds)") == 2
    line = next(x for x in printed.splitlines() if x.startswith(f"| {prior.TRAINED} | "))
    known = [r for r in rows if r["protein"] == "simulated_0_0" and r["maker"] == prior.TRAINED]
    wanted = np.mean([r["min_rmsd_a"] for r in known])
    assert line.split("|")[3].strip() == f"{wanted:.3g}"


def test_ratios_are_geometric_means_with_a_bootstrap_over_proteins(prior: ModuleType) -> None:
    rng = np.random.default_rng(3)
    logs = rng.normal(-0.1, 0.2, 12)
    rows = [{"protein": str(i), "maker": prior.LAW, "min_rmsd_a": 2.0} for i in range(12)]
    rows += [
        {"protein": str(i), "maker": prior.TRAINED, "min_rmsd_a": 2 * math.exp(x)}
        for i, x in enumerate(logs)
    ]
    middle, low, high = prior.ratio(rows, prior.TRAINED, "min_rmsd_a", prior.LAW)
    assert middle == pytest.approx(math.exp(logs.mean()))
    half = 1.96 * logs.std() / math.sqrt(12)
    assert math.log(low) == pytest.approx(logs.mean() - half, abs=0.03)
    assert math.log(high) == pytest.approx(logs.mean() + half, abs=0.03)
    assert all(math.isnan(x) for x in prior.ratio(rows, prior.TRAINED, "absent", prior.LAW))


def test_seeds_are_means_over_proteins_first(prior: ModuleType) -> None:
    rows = [
        {"protein": p, "maker": m, "tag": t, **dict.fromkeys(prior._RATIOS, value)}
        for m in (prior.TRAINED, prior.NO_TAILS)
        for t, p, value in (("a", "x", 1.0), ("a", "y", 2.0), ("b", "x", 2.0), ("b", "y", 4.0))
    ]
    assert prior.seed_rows(rows)[0] == [prior.TRAINED, *["2.250 ± 1.061"] * len(prior._RATIOS)]
    assert [r[prior._RATIOS[0]] for r in prior.over_seeds(rows)[:2]] == [1.5, 3.0]
