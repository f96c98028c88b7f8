"""Tables: Markdown, and JSON that any reader takes."""

from __future__ import annotations

import json
import math

import pytest

from common.report.tables import markdown_table, number, to_json, to_json_lines, without_nan


def test_markdown() -> None:
    text = markdown_table(["a", "b"], [["1", "x"], ["2", "y"]])
    assert text == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |"
    assert markdown_table(["a"], []) == "| a |\n| --- |"
    with pytest.raises(ValueError, match=r"3 cells in a table of 2 columns: \['1', '2', '3'\]"):
        markdown_table(["a", "b"], [["1", "2", "3"]])


def test_numbers_as_cells() -> None:
    assert [number(0.12345), number(2.0, 1), number(None), number(math.nan, missing="")] == [
        "0.123",
        "2.0",
        "–",
        "",
    ]


def test_nan_is_null_at_any_depth() -> None:
    value = {1: (math.nan, [math.inf, 2.0], {"a": -math.inf}), "text": "NaN", "no": None, "yes": 3}
    plain = {"1": [None, [None, 2.0], {"a": None}], "text": "NaN", "no": None, "yes": 3}
    assert without_nan(value) == plain
    refused = {"parse_constant": lambda text: pytest.fail(text)}
    assert json.loads(to_json(value), **refused) == plain
    assert to_json({"ä": 1.5}, indent=None) == '{"ä": 1.5}\n'
    assert to_json({"ä": 1.5}, indent=2, escape=True) == '{\n  "\\u00e4": 1.5\n}\n'
    assert to_json_lines([{"a": "ä"}], escape=True) == '{"a": "\\u00e4"}\n'
    assert to_json_lines([{"a": math.nan}, {"a": 1}]) == '{"a": null}\n{"a": 1}\n'
