"""Notes of one reading, collected model by model."""

from __future__ import annotations

from collections.abc import Sequence

from protein_cvae.ensemble import Note


class NoteBook:
    """Collects notes; what holds in every model becomes one note.

    Args:
        model_numbers: of all models, as the file numbers them.
    """

    def __init__(self, model_numbers: tuple[int, ...]) -> None:
        self._numbers = model_numbers
        self._models: Sequence[int] = range(len(model_numbers))  # positions that it is about
        self._notes: dict[tuple[str, str, str], list[int]] = {}

    def of(self, models: Sequence[int]) -> NoteBook:
        """A book about the models at these positions, whose notes end in this one."""
        part = NoteBook(self._numbers)
        part._models, part._notes = [self._models[m] for m in models], self._notes
        return part

    def add(self, kind: str, residue: str, detail: str, model: int | None = None) -> None:
        """Add a note for the model at this position, or for all."""
        models = self._notes.setdefault((kind, residue, detail), [])
        models.extend(self._models if model is None else [self._models[model]])

    def notes(self) -> tuple[Note, ...]:
        """The notes, in the order in which their kind and residue first came up."""
        found = []
        for (kind, residue, detail), models in self._notes.items():
            if len(set(models)) == len(self._numbers):
                found.append(Note(kind, None, residue, detail))
            else:
                found += [Note(kind, self._numbers[m], residue, detail) for m in models]
        return tuple(found)
