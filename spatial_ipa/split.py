"""Which slides an encoder was trained on and which are held out, fixed before it sees anything.

A slide is identified by its content, never by its name: by the hash of its expression or by the
hash of its coordinates, so that neither a renamed nor a re-normalised copy of a training slide
passes for a new one.

Modes.  ``inductive``: held-out slides enter with their identity only.  ``transductive``: their
expression may also enter the self-supervised and alignment terms; their coordinates never do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from spatial_ipa.slide import Slide

SplitMode = Literal["inductive", "transductive"]

SPLIT_VERSION = 1


@dataclass(frozen=True)
class SlideIdentity:
    """Name and content hashes of one slide; ``xy_hash`` is empty where there are no coordinates."""

    name: str
    expression_hash: str
    xy_hash: str

    @staticmethod
    def of(slide: Slide) -> SlideIdentity:
        return SlideIdentity(
            slide.name, slide.expression_hash, "" if slide.xy is None else slide.xy_hash
        )

    def clash(self, other: SlideIdentity) -> str:
        """What both have in common: "expression", "coordinates", or nothing ("")."""
        if self.expression_hash == other.expression_hash:
            return "expression"
        return "coordinates" if self.xy_hash and self.xy_hash == other.xy_hash else ""


@dataclass(frozen=True)
class Split:
    """The slides of one encoder.  Build it with :meth:`declare`.

    Attributes:
        train: slides whose expression and coordinates it was trained on.
        heldout: slides declared held out.
        scrna: dissociated samples it was aligned with.
        mode: what held-out expression was used for, see the module.
        version: of this record.
    """

    train: tuple[SlideIdentity, ...]
    heldout: tuple[SlideIdentity, ...]
    scrna: tuple[SlideIdentity, ...] = ()
    mode: SplitMode = "inductive"
    version: int = SPLIT_VERSION

    @staticmethod
    def declare(
        train: Sequence[Slide],
        heldout: Sequence[Slide],
        scrna: Sequence[Slide] = (),
        mode: SplitMode = "inductive",
    ) -> Split:
        """Fix the split.

        Raises:
            ValueError: if there is no training slide, the mode is unknown, or two slides, whatever
                their lists and names, share expression or coordinates.
        """
        if not train:
            raise ValueError("train_slides is empty: an encoder needs at least one training slide")
        if mode not in ("inductive", "transductive"):
            raise ValueError(f"mode must be 'inductive' or 'transductive', got {mode!r}")
        split = Split(_identities(train), _identities(heldout), _identities(scrna), mode)
        _refuse_common(split.train, "train_slides", split.heldout, "heldout_slides")
        _refuse_common(split.scrna, "scrna", split.heldout, "heldout_slides")
        for which, group in (("train_slides", split.train), ("heldout_slides", split.heldout)):
            for position, slide in enumerate(group):
                _refuse_common((slide,), which, group[position + 1 :], which)
        return split

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Split:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: if the record has another version or lacks a field.
        """
        record = json.loads(text)
        _check_version(record.get("version"))
        try:
            groups = {
                key: tuple(SlideIdentity(**slide) for slide in record[key])
                for key in ("train", "heldout", "scrna")
            }
            return Split(groups["train"], groups["heldout"], groups["scrna"], record["mode"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"the encoder's split record is damaged: {error}") from error


def check_split(split: Split, train: Iterable[Slide], heldout: Iterable[Slide]) -> None:
    """Refuse slides that do not fit the split an encoder was trained under.

    Args:
        split: of the encoder.
        train: slides a later stage trains on.
        heldout: slides a later stage validates or tests on; they need not have been declared.

    Raises:
        ValueError: if a held-out slide shares expression or coordinates with a slide the encoder
            was trained on, a training slide is unknown to the encoder, or the record's version is
            not this one's.
    """
    _check_version(split.version)
    train_ids, heldout_ids = _identities(train), _identities(heldout)
    _refuse_common(split.train, "the encoder's training slides", heldout_ids, "held-out slides")
    _refuse_common(split.scrna, "the encoder's scRNA samples", heldout_ids, "held-out slides")
    known = {slide.expression_hash for slide in split.train}
    unknown = [slide.name for slide in train_ids if slide.expression_hash not in known]
    if unknown:
        raise ValueError(
            f"training slides {', '.join(unknown)} were not among the encoder's training slides "
            f"({', '.join(slide.name for slide in split.train)}): their embeddings would be "
            "distributed unlike the others'. Train the encoder anew on all training slides"
        )


def _identities(slides: Iterable[Slide]) -> tuple[SlideIdentity, ...]:
    return tuple(SlideIdentity.of(slide) for slide in slides)


def _refuse_common(
    first: Sequence[SlideIdentity],
    first_name: str,
    second: Sequence[SlideIdentity],
    second_name: str,
) -> None:
    for a in first:
        for b in second:
            common = a.clash(b)
            if common:
                raise ValueError(
                    f"{b.name!r} of {second_name} has the same {common} as {a.name!r} of "
                    f"{first_name}: the result would be measured on what was learned from. "
                    "Keep it in one list, or train the encoder anew without it"
                )


def _check_version(version: object) -> None:
    if version != SPLIT_VERSION:
        raise ValueError(
            f"the encoder's split record has version {version!r}, this code reads "
            f"{SPLIT_VERSION}; train the encoder anew"
        )
