"""The benchmark that puts rivals and a trained model into one table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml


@pytest.fixture(scope="module")
def table(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("protein/table")


def test_rivals_and_model_in_one_table_and_again_for_nothing(
    table: ModuleType,
    config: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    run = ["run", "--config", str(config), "--ckpt", str(checkpoint), "--out", str(tmp_path)]
    run += ["--count", "2", "--untrained"]
    table.main([*run, "--proteins", "simulated_0_0"])
    results = tmp_path / "results.jsonl"
    first = results.read_text()
    rows = [json.loads(line) for line in first.splitlines()]
    made = [row for row in rows if row["kind"] == "conformers"]
    assert [row["method"] for row in made] == list(table.METHODS)
    assert set(table.COLUMNS) <= {key for row in made for key in row}
    assert {row["method"] for row in rows if row["kind"] == "reconstruction"} == set(table.REBUILT)
    assert len({(row["settings"], row["split"]) for row in rows}) == 1
    by_method = {row["method"]: row for row in made}
    # The same draws with and without the rest of the output layer.
    assert by_method["pca + constraints"]["inside"] == by_method["pca + finish"]["inside"] == 1
    assert by_method["noise"]["inside"] < 1

    table.main(run)
    text = results.read_text()
    assert text.startswith(first)  # nothing of the first protein again
    rows = [json.loads(line) for line in text.splitlines()]
    keys = [(row["protein"], row["maker"], row["kind"], row.get("method")) for row in rows]
    assert len(keys) == len(set(keys))
    groups = {row["protein"]: row["group"] for row in rows}
    assert groups == {"simulated_0_0": "known", "simulated_0_1": "unseen"}

    capsys.readouterr()
    table.main(["report", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for title in table.METHODS.values():
        assert printed.count(f"| {title} | 1 |") >= 2
    value = f"{by_method['noise']['min_rmsd_a']:.3g}"
    noise = next(line for line in printed.splitlines() if line.startswith("| independent noise"))
    assert noise.split("|")[6].strip() == value

    assert printed.count("| the field's panel, all residues |") == 2

    # Another model under the same name is run anew, and not averaged with the first.
    moved = torch.load(checkpoint, weights_only=True)
    name = next(key for key, value in moved["state_dict"].items() if value.is_floating_point())
    moved["state_dict"][name] += 0.1
    torch.save(moved, tmp_path / "moved.ckpt")
    run[run.index(str(checkpoint))] = str(tmp_path / "moved.ckpt")
    table.main([*run, "--proteins", "simulated_0_0"])
    added = [json.loads(line) for line in results.read_text()[len(text) :].splitlines()]
    assert {(r["maker"], r["protein"]) for r in added} == {("ours", "simulated_0_0")}
    results.write_text(text)

    # Other settings are another experiment, not to be averaged with the first.
    with results.open("a") as file:
        file.write(json.dumps({**rows[0], "settings": "other"}) + "\n")
    with pytest.raises(SystemExit, match="2 experiments"):
        table.main(["report", "--out", str(tmp_path)])


def test_the_untrained_network_is_that_of_the_configuration(
    table: ModuleType, config: Path, checkpoint: Path, tmp_path: Path
):
    """Random weights of its own seed, judged by the very code that judges a checkpoint."""
    settings = table.merged([config])
    first, again, other = (table.untrained_network(settings, seed, "cpu") for seed in (3, 3, 4))
    assert asdict(first.settings) == settings["model"]["init_args"]["network"]
    weights = [torch.cat([p.flatten() for p in n.parameters()]) for n in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])

    # A checkpoint of the same weights gets the same scores.
    trained = torch.load(checkpoint, weights_only=True)
    state = {f"model.{name}": value for name, value in first.state_dict().items()}
    torch.save({**trained, "state_dict": {**trained["state_dict"], **state}}, tmp_path / "same")
    run = ["run", "--config", str(config), "--ckpt", str(tmp_path / "same"), "--untrained"]
    run += ["--count", "2", "--seed", "3", "--proteins", "simulated_0_0", "--out", str(tmp_path)]
    table.main(run)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    scores: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        if "method" in row:
            method = row["method"].removeprefix("untrained ")
            kept = {k: v for k, v in row.items() if k not in ("maker", "method", "seconds")}
            scores.setdefault(f"{row['kind']} {method}", []).append(kept)
    pairs = {name: found for name, found in scores.items() if len(found) == 2}
    assert set(pairs) == {
        "conformers resample", "conformers prior",
        "reconstruction template", "reconstruction no template",
    }  # fmt: skip
    assert all(one == two for one, two in pairs.values())


def row(maker: str, protein: str, **more: object) -> str:
    found = {"kind": "conformers", "maker": maker, "method": maker, "protein": protein}
    return json.dumps({**found, "group": "known", "settings": "s", "split": "x", **more})


def test_a_trained_model_without_the_untrained_one_fails(
    table: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The rows may be missing for all proteins or for one; rivals alone need none."""
    results = tmp_path / "results.jsonl"
    report = ["report", "--out", str(tmp_path)]
    rivals = [row("noise", "a"), row("noise", "b")]
    ours = [row("ours", "a", method="resample"), row("ours", "b", method="ensemble")]
    untrained = [row("untrained", p, method="untrained resample") for p in "ab"]
    for rows, lacking in ((ours, "a, b"), ([*ours, untrained[0]], "b")):
        results.write_text("\n".join([*rivals, *rows]) + "\n")
        with pytest.raises(SystemExit, match=rf"held-out models: {lacking}\).*--untrained") as end:
            table.main(report)
        assert isinstance(end.value.code, str)  # which Python prints, with status 1
    assert "### Known proteins" in capsys.readouterr().out  # what there is
    for rows in (rivals, [*rivals, *ours, *untrained]):
        results.write_text("\n".join(rows) + "\n")
        table.main(report)
    # Of another model, asked for by its tag, there is none either.
    other = [row("ours wide", p, method="resample") for p in "ab"]
    results.write_text("\n".join([*rivals, *ours, *untrained, *other]) + "\n")
    table.main([*report, "--tag", "wide"])


def test_rows_of_two_models_are_not_averaged(table: ModuleType, tmp_path: Path):
    rows = [row("ours", p, method="resample", weights=p) for p in "ab"]
    rows += [row("untrained", p, method="untrained resample", weights="u") for p in "ab"]
    (tmp_path / "results.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(SystemExit, match="2 models under the name 'ours'"):
        table.main(["report", "--out", str(tmp_path)])


def test_a_model_that_has_learned_what_is_scored_is_refused(
    table: ModuleType, config: Path, checkpoint: Path, tmp_path: Path
):
    other = yaml.safe_load(config.read_text())
    other["data"]["init_args"] |= {"split": {"seed": 5}}
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(other))
    arguments = ["run", "--config", str(path), "--ckpt", str(checkpoint), "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="simulated_0_0"):
        table.main(arguments)


def test_configurations_are_laid_over_each_other(table: ModuleType, tmp_path: Path):
    for name, text in (("a", "data: {x: 1, y: [1, 2]}"), ("b", "data: {y: [3]}\nz: 0")):
        (tmp_path / name).write_text(text)
    merged = table.merged([tmp_path / "a", tmp_path / "b"])
    assert merged == {"data": {"x": 1, "y": [3]}, "z": 0}
