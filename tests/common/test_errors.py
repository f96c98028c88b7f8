"""Which errors are messages for the user, and what Python callers may catch them as."""

from __future__ import annotations

import pytest

from common.errors import ExistingFile, MissingFile, MissingPackage, UserError, told_to_user


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (UserError, ValueError),
        (MissingFile, FileNotFoundError),
        (ExistingFile, FileExistsError),
        (MissingPackage, ModuleNotFoundError),
    ],
)
def test_each_is_a_user_error_and_its_builtin_and_keeps_its_words(kind, builtin):
    for caught_as in (UserError, ValueError, builtin):
        with pytest.raises(caught_as) as caught:
            raise kind("a.h5ad: no such layer")
        assert str(caught.value) == "a.h5ad: no such layer"


def caught(source: str) -> Exception:
    with pytest.raises(Exception) as error:  # noqa: PT011
        exec(compile(source, "spatial_ipa/data/read.py", "exec"), {"UserError": UserError})
    return error.value


@pytest.mark.parametrize(
    "source", ["raise ValueError('x')", "int('x')", "a, b = [1]", "import nowhere.at_all"]
)
def test_a_defect_is_no_message(source):
    assert told_to_user(caught(source)) is None


def test_a_message_inside_a_wrapper_is_found():
    wrapped = caught("""
try:
    raise UserError('told')
except ValueError as error:
    raise ValueError('parser: many lines') from error
""")
    assert str(told_to_user(wrapped)) == "told"


def test_an_error_while_handling_a_message_is_a_defect():
    """Only the explicit cause counts: the context of an accident is not what happened."""
    accident = caught("""
try:
    raise UserError('told')
except ValueError:
    int('x')
""")
    assert told_to_user(accident) is None
