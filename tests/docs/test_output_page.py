"""The page on the output names every field that is written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from page_blocks import ROOT

import protein_cvae
import spatial_ipa
from common.cli import edgewise

pytestmark = pytest.mark.filterwarnings("default")
# `a`, `x/a.png` and `uns["a"]` on the page: each name between marks counts.
PAGE = (ROOT / "docs" / "output.md").read_text()
CODE = re.findall(r"`([^`\n]+)`", PAGE)
NAMED = {name for code in CODE for name in (code, *code.split("/"), *re.findall(r'"(\w+)"', code))}


def keys(content: Mapping[str, Any]) -> Iterator[str]:
    """The keys of nested mappings."""
    for key, value in content.items():
        yield key
        if isinstance(value, Mapping):
            yield from keys(value)


def unnamed(names: Iterator[str] | list[str]) -> set[str]:
    return set(names) - NAMED


def test_fields_of_placed_cells(workplace: Path) -> None:
    given = ad.read_h5ad("my/cells.h5ad")
    model = spatial_ipa.load("runs/mine/spatial_ipa.ckpt")
    fewer = spatial_ipa.PlacementOptions(num_draws=2, num_hypotheses=3, abstain_above=1.0)
    for options in (None, fewer):
        placed = model.place(given, options=options)
        for part in ("obs", "obsm", "obsp"):
            written = set(getattr(placed, part)) - set(getattr(given, part))
            assert written
            assert not unnamed(list(written)), part
        assert not unnamed(list(keys({k: placed.uns[k] for k in placed.uns.keys() - given.uns})))


def test_fields_beside_conformers_and_latents(workplace: Path) -> None:
    model = ["--ckpt", "runs/mine/protein_cvae.ckpt"]
    edgewise.main(["generate", "my/2sdf.pdb", "-n", "3", "-o", "new.pdb", *model])
    edgewise.main(["interpolate", "my/closed.pdb", "my/open.pdb", "-n", "3", "-o", "p.pdb", *model])
    edgewise.main(["encode", "my/2sdf.pdb", "-o", "z.npz", *model])
    for name in ("new.pdb", "p.pdb", "z.npz"):
        assert not unnamed(list(keys(json.loads(Path(f"{name}.json").read_text())))), name
    with np.load("z.npz") as arrays:
        assert not unnamed(list(arrays))


def test_lines_and_files_of_an_evaluation(workplace: Path) -> None:
    model = protein_cvae.load("runs/mine/protein_cvae.ckpt")
    model.evaluate(
        "my/nmr/*.cif.gz", "evaluated", protein_cvae.EvaluationSettings(count=2, figures=1)
    )
    for name in ("evaluation.jsonl", "latent_effects.jsonl"):
        for line in Path("evaluated", name).read_text().splitlines():
            assert not unnamed(list(json.loads(line))), name
    files = [path.name for path in Path("evaluated").rglob("*") if path.is_file()]
    assert not unnamed([re.sub(r"^\d\w{3}_", "NAME_", name) for name in files])


def test_files_of_fits(workplace: Path) -> None:
    written = [path.name for path in Path("runs/mine").rglob("*") if path.is_file()]
    changes = {
        r"\.tfevents\..*": "events", r"^events.*": "TensorBoard events", r"^\w{24}\.npy$": "cache",
        r"^(layout|focus|progression)_\d{4}": r"\1_NNNN", r"^best-epoch=\d{3}": "best-epoch=NNN",
        r"^epoch=\d+-step=\d+\.ckpt$": "checkpoints",
    }  # fmt: skip
    for old, new in changes.items():
        written = [re.sub(old, new, name) for name in written]
    assert not unnamed(written) - {"TensorBoard events"}


def test_files_of_the_run_folder(workplace: Path) -> None:
    folder = Path("runs/quickstart")
    written = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    changes = {r"slide_\d": "SLIDE", r"(layout|predicted|uncertainty)_scrna": r"\1_SAMPLE"}
    for old, new in changes.items():
        written = [re.sub(old, new, name) for name in written]
    assert "scores.md" in written
    assert not unnamed(written)
    found = json.loads((folder / "identifiability.json").read_text())
    assert not unnamed([*found, *found["slides"]["slide_4"], *found["radii"]["slide_4"]])
    checks = json.loads((folder / "health.json").read_text())["slide_4"]
    assert not unnamed([re.sub(r"/\d$", "", name) for name in checks])
    rows = json.loads((folder / "scores.json").read_text())
    assert not unnamed([name for row in rows for name in row])
