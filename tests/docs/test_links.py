"""Links inside lead to files and headings that exist; links outside stand on one page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from page_blocks import ROOT, pages

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
OUTSIDE = ROOT / "docs" / "links.md"


def prose(page: Path) -> str:
    """The text of a page without its code blocks."""
    return re.sub(r"^ *(`{3,}).*?^ *\1 *$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, on the site and where it is browsed."""
    headings = re.findall(r"^#{1,6} +(.+?) *$", prose(page), flags=re.MULTILINE)
    plain = (re.sub(r"[`*]", "", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            assert page == OUTSIDE, f"{link}: external links stand in {OUTSIDE.relative_to(ROOT)}"
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link} does not exist"
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading"


def test_headings_become_anchors(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A *bold* `name`\n\n```bash\n# no heading\n```\n\n## run, and `x.y`\n")
    assert anchors(page) == {"a-bold-name", "run-and-xy"}
