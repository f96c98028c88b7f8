"""Every code block of README, CONTRIBUTING and the site runs as it is printed.

Blocks of a page share one folder and, in Python, one set of names.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from page_blocks import ROOT, RUN, SHOWN, Block, blocks_of, pages
from page_commands import check_block, run_block

# pytest makes errors of warnings; a user does not.
pytestmark = pytest.mark.filterwarnings("default")
MOST_NOT_RUN = 6
PAGES = [page for page in pages() if any(b.language in RUN for b in blocks_of(page))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_of_the_page_run(
    page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of(page):
        try:
            _try(block, workplace, names, monkeypatch)
        except (Exception, SystemExit) as error:
            error.add_note(f"in the block of {block.where}")
            raise


def _try(block: Block, folder: Path, names: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    if block.language == "python" and block.reason is None:
        exec(compile(block.text, block.where, "exec"), names)
    elif block.language == "python":
        compile(block.text, block.where, "exec")
    elif block.language == "bash" and block.reason is None:
        run_block(block, folder, patch)
    elif block.language == "bash":
        check_block(block, folder)
    elif block.language == "yaml":
        assert isinstance(yaml.safe_load(block.text), dict)
        _save(block, folder)
    elif block.language == "toml":
        tomllib.loads(block.text)
    else:
        assert block.language.startswith("{") or block.language in SHOWN, (
            f"say which language this is: {', '.join((*RUN, *SHOWN))}"
        )


def _save(block: Block, folder: Path) -> None:
    """Write a file that a block shows under the name in its first line."""
    first = block.text.splitlines()[0]
    assert re.fullmatch(r"# .*\.yaml", first), "name the file in the first line"
    (folder / first.removeprefix("# ")).write_text(block.text)


def test_what_is_not_run_is_little_and_has_a_reason() -> None:
    left_out = [b for page in pages() for b in blocks_of(page) if b.reason is not None]
    for block in left_out:
        print(f"{block.where}: {block.reason}")
        assert block.reason, block.where
    assert len(left_out) <= MOST_NOT_RUN


def test_unknown_options_are_found_without_running(tmp_path: Path) -> None:
    page = ROOT / "README.md"

    def check(text: str) -> None:
        check_block(Block(page, 1, "bash", text, reason="a test"), tmp_path)

    check("srun edgewise place a.h5ad -o b.h5ad --draws 3")
    with pytest.raises(SystemExit):
        check("edgewise place a.h5ad -o b.h5ad --drawz 3")
    config = ROOT / "configs/spatial_ipa/fit.yaml"
    check(f"lightning fit --config {config} --trainer.num_nodes 2")
    with pytest.raises(AssertionError):
        check(f"lightning fit --config {config} --trainer.number_of_nodes 2")
    with pytest.raises(subprocess.CalledProcessError):
        check("if true; then echo")
