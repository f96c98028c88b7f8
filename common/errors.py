"""Errors that are messages for the user: the command line prints them as one line, no traceback.

Each is also the built-in error that Python callers expect, so ``except ValueError`` and
``except FileNotFoundError`` go on working.  Any other exception is a defect with a traceback.
"""

from __future__ import annotations


class UserError(ValueError):
    """Input that cannot be used; the message names it and says what to do."""


class MissingFile(UserError, FileNotFoundError):
    """A file that is not there."""


class ExistingFile(UserError, FileExistsError):
    """A file that would be overwritten."""


class MissingPackage(UserError, ModuleNotFoundError):
    """A package that an option needs and that is not installed."""


class CannotRun(UserError, RuntimeError):
    """Something that was asked for and that this machine or installation cannot run."""


def told_to_user(error: BaseException) -> UserError | None:
    """The message behind an error, itself or one that it was raised from; None of a defect.

    jsonargparse wraps what a constructor raises in an error of its own, many lines long, with the
    original as its cause.
    """
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, UserError):
            return current
        current = current.__cause__
    return None
