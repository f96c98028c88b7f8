"""Which models are learned from: fixed by seed and name, recorded, and checked at every later use.

Within an ensemble of known protein, a share of its models is held out, one by one or in blocks that
follow each other (:class:`~protein_cvae.data.settings.TimeBlocks`).  Other ensembles are kept
out entirely ("unseen"), with all their relatives (:mod:`protein_cvae.data.families`).  Which models
are held out depends on the seed, the ensemble's name and its number of models (with blocks, on
theirs) alone, so that every program and every baseline that reads the same files judges the same
models.

The record travels in checkpoints.  It holds the hash of every model and the sequence of every
chain, so that a later use with other files is refused if it would score what was learned from,
whatever the files are called.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from common.errors import UserError
from protein_cvae.data.division import divide
from protein_cvae.data.families import find_families, related
from protein_cvae.data.settings import TimeBlocks
from protein_cvae.ensemble import Ensemble

# Records without blocks are what version 1 holds, and stay it: their digests stay, too.
SPLIT_VERSION = 2
_WITHOUT_BLOCKS = 1


@dataclass(frozen=True)
class EnsembleEntry:
    """One ensemble of a split.

    Attributes:
        name: of the ensemble.
        sequences: of its chains, in order.
        hashes: one for each model, of its coordinates.
        family: the least name in its family.
        train: positions of the models to learn from; empty if the ensemble is unseen.
        heldout: positions of the models to be judged on; all of them if the ensemble is unseen.
    """

    name: str
    sequences: tuple[str, ...]
    hashes: tuple[str, ...]
    family: str
    train: tuple[int, ...]
    heldout: tuple[int, ...]

    @property
    def unseen(self) -> bool:
        return not self.train


@dataclass(frozen=True)
class EnsembleSplit:
    """The split of a list of ensembles.  Build it with :meth:`declare`.

    Attributes:
        entries: one for each ensemble, in order.
        seed: it was drawn with.
        held_out_fraction: of the models of a known protein.
        families: names of relatives that sequence identity does not see.
        blocks: of models held out together.
    """

    entries: tuple[EnsembleEntry, ...]
    seed: int
    held_out_fraction: float
    families: tuple[tuple[str, ...], ...] = ()
    blocks: TimeBlocks = TimeBlocks()

    @staticmethod
    def declare(
        ensembles: Sequence[Ensemble],
        families_held_out: Sequence[str] = (),
        families: Sequence[Sequence[str]] = (),
        held_out_fraction: float = 0.2,
        seed: int = 0,
        blocks: TimeBlocks = TimeBlocks(),
    ) -> EnsembleSplit:
        """Fix the split.

        Args:
            ensembles: with distinct names.
            families_held_out: names of ensembles to keep out, with all their relatives.
            families: names of relatives that sequence identity does not see.
            held_out_fraction: of the models of each other ensemble, in [0, 1); rounded to whole
                models or blocks, at least one unless 0; two models are always left to train on.
            seed: of the choice of models or blocks.
            blocks: of models held out together.

        Raises:
            ValueError: on ensembles that share a name or (between training and judging) a model,
                an unknown name in ``families_held_out``, a fraction outside [0, 1), an ensemble
                too small to be divided, or if nothing is left to train on.
        """
        if not 0 <= held_out_fraction < 1:
            raise UserError(f"held_out_fraction must lie in [0, 1), got {held_out_fraction}")
        sources: dict[str, str] = {}
        for ensemble in ensembles:
            if ensemble.name in sources:
                raise UserError(
                    f"two ensembles are called {ensemble.name!r}: {sources[ensemble.name]} and "
                    f"{ensemble.source}; rename a file, names identify ensembles in the split"
                )
            sources[ensemble.name] = ensemble.source
        missing = [name for name in families_held_out if name not in sources]
        if missing:
            raise UserError(
                f"families_held_out names {', '.join(missing)}, but the ensembles are "
                f"{', '.join(sorted(sources)) or 'none'}"
            )
        family_of = find_families({e.name: chain_sequences(e) for e in ensembles}, families)
        out = {family_of[name] for name in families_held_out}
        entries = []
        for ensemble in ensembles:
            hashes = model_hashes(ensemble)
            family, everything = family_of[ensemble.name], tuple(range(ensemble.num_models))
            train: tuple[int, ...] = ()
            heldout = everything
            if family not in out:
                train, heldout = divide(ensemble.name, hashes, held_out_fraction, seed, blocks)
            entries.append(
                EnsembleEntry(
                    ensemble.name, chain_sequences(ensemble), hashes, family, train, heldout
                )
            )
        named = tuple(tuple(group) for group in families)
        split = EnsembleSplit(tuple(entries), seed, held_out_fraction, named, blocks)
        if not any(entry.train for entry in entries):
            raise UserError(
                "no ensemble is left to train on: "
                + ("all are relatives of families_held_out" if ensembles else "there is none")
            )
        split.check_use(split)
        return split

    @property
    def digest(self) -> str:
        """SHA-256 of the record, hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def entry(self, name: str) -> EnsembleEntry:
        """The entry of an ensemble.

        Raises:
            KeyError: if the split has no such ensemble.
        """
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(f"the split has no ensemble {name!r}")

    def to_dict(self) -> dict[str, Any]:
        """Dicts, lists, strings and numbers only, for ``torch.load(weights_only=True)``."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.blocks.count:
            return plain | {"version": SPLIT_VERSION}
        del plain["blocks"]
        return plain | {"version": _WITHOUT_BLOCKS}

    @staticmethod
    def from_dict(record: dict[str, Any]) -> EnsembleSplit:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: if the record has another version or lacks a field.
        """
        version = record.get("version")
        if version not in (_WITHOUT_BLOCKS, SPLIT_VERSION):
            raise UserError(
                f"the split record has version {version!r}, this code reads {_WITHOUT_BLOCKS} and "
                f"{SPLIT_VERSION}; train the model anew"
            )
        try:
            entries = tuple(
                EnsembleEntry(
                    name=entry["name"],
                    sequences=tuple(entry["sequences"]),
                    hashes=tuple(entry["hashes"]),
                    family=str(entry["family"]),
                    train=tuple(int(i) for i in entry["train"]),
                    heldout=tuple(int(i) for i in entry["heldout"]),
                )
                for entry in record["entries"]
            )
            return EnsembleSplit(
                entries,
                int(record["seed"]),
                float(record["held_out_fraction"]),
                tuple(tuple(group) for group in record["families"]),
                TimeBlocks(**record["blocks"]) if version == SPLIT_VERSION else TimeBlocks(),
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"the split record is damaged: {error!r}") from error

    def check_same(self, other: EnsembleSplit) -> None:
        """Refuse to continue a training on another split.

        Args:
            other: the split of the data at hand; ``self`` is that of the checkpoint.

        Raises:
            ValueError: saying what differs.
        """
        if self.digest == other.digest:
            return
        ours, theirs = ({e.name: e for e in split.entries} for split in (self, other))
        gone, new = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
        changed = [n for n in ours if n in theirs and ours[n] != theirs[n]]
        what = [
            f"{text} {', '.join(names)}"
            for text, names in (("without", gone), ("with", new), ("other models of", changed))
            if names
        ]
        for name in ("seed", "held_out_fraction", "families", "blocks"):
            if getattr(self, name) != getattr(other, name):
                what.append(f"{name} {getattr(other, name)}, not {getattr(self, name)}")
        raise UserError(
            "the data are split otherwise than in the checkpoint's training "
            f"({'; '.join(what) or 'ensembles in another order'}); continue with the same files "
            "and settings, or train anew"
        )

    def check_use(self, other: EnsembleSplit) -> None:
        """Refuse data that would be judged on what was learned from.

        Args:
            other: the split of the data at hand; ``self`` is that of the training.

        Raises:
            ValueError: if a model that ``other`` judges was learned from, or an ensemble that it
                counts as unseen is a relative of one that was learned from; names them.
        """
        learned = {e.hashes[i]: e.name for e in self.entries for i in e.train}
        trained = [entry for entry in self.entries if entry.train]
        named = [set(group) for group in (*self.families, *other.families)]
        for entry in other.entries:
            for i in entry.heldout:
                if entry.hashes[i] in learned:
                    raise UserError(
                        f"model {i} of {entry.name} is to be judged on, but is also a training "
                        f"model of {learned[entry.hashes[i]]}; leave one of the two files out, "
                        "or use the split of the training"
                    )
            if not entry.unseen:
                continue
            for relative in trained:
                if any({entry.name, relative.name} <= group for group in named) or any(
                    related(ours, theirs)
                    for ours in entry.sequences
                    for theirs in relative.sequences
                ):
                    raise UserError(
                        f"{entry.name} is to be an unseen protein, but it is a relative of "
                        f"{relative.name}, which was trained on; train without that family, or "
                        "score the held-out models of a known protein"
                    )


def chain_sequences(ensemble: Ensemble) -> tuple[str, ...]:
    """The letters of each chain, in order."""
    chains: list[list[str]] = [[] for _ in ensemble.chain_ids]
    for letter, chain in zip(ensemble.sequence, ensemble.chain_index.tolist(), strict=True):
        chains[chain].append(letter)
    return tuple("".join(chain) for chain in chains)


def model_hashes(ensemble: Ensemble) -> tuple[str, ...]:
    """A hash of each model's coordinates and of which residues it has; 16 hexadecimal digits."""
    return tuple(
        hashlib.blake2b(
            xyz.to(torch.float32).numpy().astype("<f4").tobytes() + mask.numpy().tobytes(),
            digest_size=8,
        ).hexdigest()
        for xyz, mask in zip(ensemble.coordinates, ensemble.mask, strict=True)
    )
