"""Scripts find those beside them by bare names, which one process can give only once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.rglob("*.py"))


def imported(script: Path) -> Iterator[str]:
    """First parts of the absolute names that a script imports, wherever it does so."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def test_some_scripts_import_those_beside_them() -> None:
    beside = {p.stem for script in SCRIPTS for p in script.parent.glob("*.py")}
    assert {"experiment", "splits", "inputs"} <= beside & {n for s in SCRIPTS for n in imported(s)}


@pytest.mark.parametrize(
    "script", SCRIPTS, ids=lambda script: script.relative_to(BENCHMARKS).as_posix()
)
def test_what_a_script_imports_from_beside_it_has_its_name_alone(script: Path) -> None:
    beside = {path.stem for path in script.parent.glob("*.py")}
    namesakes = {
        name: [p.relative_to(BENCHMARKS).as_posix() for p in SCRIPTS if p.stem == name]
        for name in set(imported(script)) & beside
    }
    assert {name for name, paths in namesakes.items() if len(paths) > 1} == set(), namesakes
