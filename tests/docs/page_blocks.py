"""The fenced code blocks of a page, and what an invisible comment before one asks of the test.

<!-- test: append="--trainer.max_epochs=1" -->    more arguments for each command of the block
<!-- test: not run: needs two nodes -->           only read; the reason is listed
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN = ("python", "bash", "yaml", "toml")
SHOWN = ("text",)

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>.*)$")
_COMMENT = re.compile(r"^<!-- test: (?P<text>.+) -->$")
_NOT_RUN = "not run:"


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: the file.
        line: number of the line of its opening fence.
        language: as it is written; "" for none, ``{name}`` for a directive of Sphinx.
        text: what it holds.
        append: arguments for each of its commands.
        reason: why it is not run; None if it is.
    """

    page: Path
    line: int
    language: str
    text: str
    append: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Every page that users read."""
    docs = sorted(
        path
        for path in (ROOT / "docs").rglob("*.md")
        if not any(part.startswith(("_", ".")) for part in path.relative_to(ROOT).parts)
    )
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs]


def blocks_of(page: Path, text: str | None = None) -> list[Block]:
    """The blocks of a page in order.

    Raises:
        ValueError: for a block that is never closed, or a comment that no block follows.
    """
    lines = (page.read_text() if text is None else text).splitlines()
    found: list[Block] = []
    comment, number = "", 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        if opening is None:
            asked = _COMMENT.match(lines[number])
            if asked is not None:
                comment = asked["text"]
            elif comment and lines[number].strip():
                raise ValueError(f"{page}:{number + 1}: no block follows `test: {comment}`")
            number += 1
            continue
        start, indent = number, len(opening["indent"])
        closing = re.compile(rf"^ *{opening['fence']} *$")
        number += 1
        while number < len(lines) and not closing.match(lines[number]):
            number += 1
        if number == len(lines):
            raise ValueError(f"{page}:{start + 1}: the block is never closed")
        body = "\n".join(line[indent:] for line in lines[start + 1 : number])
        append, reason = _asked(comment, f"{page}:{start + 1}")
        language = opening["info"].strip()
        found.append(Block(page, start + 1, language, body + "\n", append, reason))
        comment = ""
        number += 1
    if comment:
        raise ValueError(f"{page}: no block follows `test: {comment}`")
    return found


def _asked(comment: str, where: str) -> tuple[tuple[str, ...], str | None]:
    """Arguments to append, and the reason not to run."""
    if not comment:
        return (), None
    if comment.startswith(_NOT_RUN):
        return (), comment.removeprefix(_NOT_RUN).strip()
    name, _, value = comment.partition("=")
    if name != "append":
        raise ValueError(f"{where}: the test knows `append=` and `{_NOT_RUN}`, got {comment!r}")
    (text,) = shlex.split(value)
    return tuple(shlex.split(text)), None
