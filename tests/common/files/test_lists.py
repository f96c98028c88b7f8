"""One value where a list may be given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from common.files.lists import FrozenTexts, Texts, one_or_several


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", ["a"]),
        (Path("a"), [Path("a")]),
        (["a", "b"], ["a", "b"]),
        (("a",), ["a"]),
        (iter("ab"), ["a", "b"]),
        ([], []),
        ((), []),
    ],
)
def test_one_is_a_list_of_one(given: object, expected: list[object]) -> None:
    assert one_or_several(given) == expected


@dataclass(frozen=True)
class Settings:
    paths: FrozenTexts = ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("my/A.h5ad", ["my/A.h5ad"]),
        ("my/A*.h5ad", ["my/A*.h5ad"]),
        ("[my/A.h5ad]", ["my/A.h5ad"]),
        ("['A.h5ad', 'B.h5ad']", ["A.h5ad", "B.h5ad"]),
        ("[]", []),
    ],
)
def test_options_take_a_path_without_brackets(text: str, expected: list[str]) -> None:
    parser = ArgumentParser()
    parser.add_argument("--paths", type=Texts)
    parser.add_argument("--settings", type=Settings)
    read = parser.parse_args([f"--paths={text}", f"--settings.paths={text}"])
    assert one_or_several(read.paths) == expected
    assert one_or_several(read.settings.paths) == expected
