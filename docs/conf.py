"""Sphinx: pages in MyST Markdown, the reference from docstrings, notebooks executed and cached.

``sphinx-build -W --keep-going docs docs/_build/html`` builds the site.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

_ROOT = Path(__file__).resolve().parents[1]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]

project = _PROJECT["name"]
release = version = _PROJECT["version"]
author = project
project_copyright = f"{project}, {_PROJECT['license']}"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints", ".jupyter_cache"]

html_theme = "furo"
html_title = f"{project} {version}"
html_show_copyright = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
copybutton_prompt_text = "$ "

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # of the reports, which benchmarks print

# Notebooks are kept without outputs; one is executed anew only when its code has changed.
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_timeout = 1800  # of a cell, on a machine with much else to do
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False


def _formulas_as_they_are(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Show the indented paragraphs of a module's docstring, which are formulas or code, verbatim.

    Bars and tildes elsewhere mean themselves.
    """
    if what != "module":
        return
    shown: list[str] = []
    for before, line in zip(["", *lines], lines, strict=False):
        starts = line.startswith("    ") and not before
        if starts and shown and not _last_text(shown).startswith((" ", "* ", "- ", "..")):
            shown += ["::", ""]
        is_text = not line.startswith((" ", "=")) and "``" not in line
        shown.append(line.replace("|", "\\|") if is_text else line)
    lines[:] = shown


def _links_of_the_site(app: Sphinx, docname: str, source: list[str]) -> None:
    """Links to pages outside ``docs/``, which work where the repository is browsed."""
    source[0] = re.sub(r"\(\.\./benchmarks/reports/(?:\w+/)?(\w+\.md)", r"(reports/\1", source[0])
    source[0] = source[0].replace("(../CONTRIBUTING.md", "(contributing.md")


def _last_text(lines: list[str]) -> str:
    return next((line for line in reversed(lines) if line), "")


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", _formulas_as_they_are)
    app.connect("source-read", _links_of_the_site)
