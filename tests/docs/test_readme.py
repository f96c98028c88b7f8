"""README stays one page, its tables small, and it names no place on anybody's machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from page_blocks import ROOT, pages

README = (ROOT / "README.md").read_text()


def test_readme_is_one_page() -> None:
    assert len(README.encode()) <= 9_000


def table_rows(text: str) -> list[int]:
    """Rows of each table, without its head."""
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    return [table.count("\n") - 2 for table in tables]


def test_tables_of_the_readme_have_at_most_eight_rows() -> None:
    rows = table_rows(README)
    assert len(rows) == 2, "one table for each model"
    assert all(count <= 8 for count in rows)


def test_rows_are_counted() -> None:
    assert table_rows("a\n\n| x |\n| - |\n| 1 |\n| 2 |\n\n| y |\n| - |\n| 3 |\n") == [2, 1]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_a_place_on_a_machine(page: Path) -> None:
    text = page.read_text()
    found = re.findall(r"(?:^|[\s`\"'(=])(/(?:home|root|tmp|work|Users|mnt|scratch)/\S*)", text)
    assert not found
