"""Notes of one reading, collected model by model."""

from __future__ import annotations

from protein_cvae.ensemble import Note


class NoteBook:
    """Collects notes; what holds in every model becomes one note."""

    def __init__(self, model_numbers: tuple[int, ...]) -> None:
        self._numbers = model_numbers
        self._notes: dict[tuple[str, str, str], list[int]] = {}

    def add(self, kind: str, residue: str, detail: str, model: int | None = None) -> None:
        """Add a note for the model at this position, or for all."""
        models = self._notes.setdefault((kind, residue, detail), [])
        models.extend(range(len(self._numbers)) if model is None else [model])

    def notes(self) -> tuple[Note, ...]:
        """The notes, in the order in which their kind and residue first came up."""
        found = []
        for (kind, residue, detail), models in self._notes.items():
            if len(set(models)) == len(self._numbers):
                found.append(Note(kind, None, residue, detail))
            else:
                found += [Note(kind, self._numbers[m], residue, detail) for m in models]
        return tuple(found)
