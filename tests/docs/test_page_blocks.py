"""Which blocks a page has, and what is asked of the test before them."""

from __future__ import annotations

import pytest
from page_blocks import ROOT, blocks_of
from page_commands import commands

PAGE = ROOT / "docs" / "page.md"


def test_blocks_with_their_comments() -> None:
    text = """Words.

<!-- test: append="--a 1 --b='two words'" -->

```bash
edgewise x
```

- item
  ```python
  x = 1
  ```

<!-- test: not run: needs two nodes -->
~~~bash
```
~~~
"""
    first, second, third = blocks_of(PAGE, text)
    assert (first.language, first.line, first.text) == ("bash", 5, "edgewise x\n")
    assert first.append == ("--a", "1", "--b=two words")
    assert (second.text, second.append, second.reason) == ("x = 1\n", (), None)
    assert (third.text, third.reason) == ("```\n", "needs two nodes")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```bash\nx\n", "never closed"),
        ("<!-- test: not run: y -->\nwords\n", "no block follows"),
        ("<!-- test: not run: y -->\n", "no block follows"),
        ('<!-- test: skip="x" -->\n```bash\n```\n', "the test knows"),
    ],
)
def test_what_a_page_gets_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blocks_of(PAGE, text)


def test_commands_of_a_block() -> None:
    text = "# first\na --x 1 \\\n    --y 2   # second\n\nb c#d\n"
    assert commands(text) == ["a --x 1 --y 2", "b c#d"]
