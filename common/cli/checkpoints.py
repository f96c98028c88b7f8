"""What ``--ckpt_path`` may be, and the settings that it brings.

Classes are compared as objects: a checkpoint that names its class by a path of an earlier layout
is one of the class that the path leads to now (:func:`common.files.identity.resolve_class`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files.checkpoint import read_checkpoint
from common.files.identity import resolve_class

# What Lightning accepts for --ckpt_path besides a file.
KEYWORDS = ("best", "last", "hpc", "registry")


def is_file_path(ckpt_path: str) -> bool:
    """Whether this names a file of this machine."""
    return ckpt_path not in KEYWORDS and "://" not in ckpt_path


def complaint_about(path: Path, class_path: object) -> str | None:
    """Why the file is not a checkpoint of the model class that was asked for; None if it may be.

    Lightning would fail on each of these with a traceback from inside.
    """
    try:
        content = read_checkpoint(path, mmap=True)
    except UserError as error:
        return str(error)
    parts = ("pytorch-lightning_version", "state_dict")
    if not isinstance(content, dict) or any(part not in content for part in parts):
        held = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        return (
            f"{path} is not a checkpoint that `lightning fit` wrote, such as those in "
            f"checkpoints/; it holds {held}"
        )
    settings = content.get("hyper_parameters", {})
    if settings and "_class_path" not in settings:
        return (
            f"{path} does not name its model class: it was written by a Trainer in Python, not by "
            "`lightning fit`; load it with the class's load_from_checkpoint"
        )
    return _other_class(path, settings.get("_class_path"), class_path)


def _other_class(path: Path, trained: object, configured: object) -> str | None:
    if not isinstance(trained, str):
        return None
    found = resolve_class(trained)
    if isinstance(configured, str) and trained != configured:
        if found is None or found is not resolve_class(configured):
            return f"{path} is a checkpoint of {trained}, the configuration names {configured}"
    elif found is None:
        return f"{path} is a checkpoint of {trained}, a class that does not exist; train it anew"
    return None


def settings_of(path: Path, class_path: object) -> dict[str, Any]:
    """The ``model`` section that a checkpoint restores; empty if it holds no hyperparameters.

    Its class is named as the configuration names it, ``class_path``, where both are one class.  A
    class with a static method ``convert_hyperparameters`` is asked to bring those of its earlier
    versions into the form that its constructor takes.
    """
    content = read_checkpoint(path, mmap=True)
    settings = dict(content.get("hyper_parameters", {}))
    settings.pop("_instantiator", None)
    trained = settings.pop("_class_path", None)
    if trained is None:
        return settings
    found = resolve_class(trained)
    if found is not None and isinstance(class_path, str) and found is resolve_class(class_path):
        trained = class_path
    elif found is not None:
        trained = f"{found.__module__}.{found.__qualname__}"
    convert = getattr(found, "convert_hyperparameters", None)
    if convert is not None:
        settings = convert(settings)
    return {"class_path": trained, "dict_kwargs": settings}
