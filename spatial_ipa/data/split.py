"""Which slides an encoder was trained on and which are held out, fixed before it sees anything.

A slide is identified by its content, never by its name: by the hash of its expression, by the hash
of its coordinates, and by a sketch of its rows, so that neither a renamed nor a re-normalised copy
of a training slide passes for a new one, nor the same spots in another order or a part of them.
Equal coordinates are a sign of the same slide, unless they are those of an array, which many
samples fill: then the genes detected at each have to be the same, too.

The sketch is the bottom k of the rows' hashes (Broder, Proc. SEQUENCES 1997, p. 21): the k smallest
of 64-bit hashes of each row's genes and values, whatever the order of rows and columns.  Below the
smaller of two sketches' maxima both are complete, and the share of common rows is counted there.

Modes.  ``inductive``: held-out slides enter with their identity only.  ``transductive``: their
expression may also enter the self-supervised and alignment terms; their coordinates never do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from common.errors import UserError
from spatial_ipa.data.overlap import is_grid
from spatial_ipa.data.slide import Slide

SplitMode = Literal["inductive", "transductive"]

SPLIT_VERSION = 2

_SKETCH_SIZE = 256
_MAX_SHARED = 0.05  # of the rows of the smaller slide
_MIN_DETECTED = 10  # genes in a row; rows with fewer coincide by chance
_BLOCK_ENTRIES = 2**22  # matrix entries hashed at once: 32 MB


@dataclass(frozen=True)
class SlideIdentity:
    """What one slide is recognised by.

    Attributes:
        name: of the slide; not compared.
        expression_hash: of its matrix and genes.
        xy_hash: of its coordinates, and on an array of the genes detected there; empty where there
            are none.
        rows: ascending row hashes, the smallest of all or, in a small slide, all; see the module.
            Rows with fewer than 10 detected genes do not enter.
        patient: donor, animal or block; kept for the record, not compared, as leaving out one of
            a patient's slides is a legitimate question.
    """

    name: str
    expression_hash: str
    xy_hash: str
    rows: tuple[int, ...] = ()
    patient: str | None = None

    @staticmethod
    def of(slide: Slide) -> SlideIdentity:
        return SlideIdentity(
            slide.name,
            slide.expression_hash,
            _place_hash(slide),
            row_sketch(slide),
            slide.patient,
        )

    def clash(self, other: SlideIdentity) -> str:
        """What this slide has of the other, to be followed by "'<other>'"; "" if nothing."""
        if self.expression_hash == other.expression_hash:
            return "has the same expression as"
        if self.xy_hash and self.xy_hash == other.xy_hash:
            return "has the same coordinates as"
        share = shared_rows(self.rows, other.rows)
        return f"shares about {share:.0%} of the spots with" if share > _MAX_SHARED else ""


def _place_hash(slide: Slide) -> str:
    """What positions identify a slide by: on an array, with the genes detected at each.

    Positions are those of an array if almost all are equally far from their nearest.
    """
    if slide.xy is None:
        return ""
    if not is_grid(slide.xy):
        return slide.xy_hash
    digest = hashlib.sha256(f"{slide.xy_hash},{slide.genes}".encode())
    counts = slide.counts
    for part in (counts.indptr, counts.indices):
        digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
    return digest.hexdigest()


def row_sketch(slide: Slide, size: int = _SKETCH_SIZE) -> tuple[int, ...]:
    """The ``size`` smallest distinct row hashes, ascending, each in [0, 2^64); see the module.

    Each entry's hash mixes those of gene and value; a row's is the mixed sum over its entries, so
    the order of genes does not matter, nor do genes that the row lacks.
    """
    genes = np.array(
        [int.from_bytes(hashlib.blake2b(g.encode(), digest_size=8).digest()) for g in slide.genes],
        dtype=np.uint64,
    )
    counts = slide.counts
    indptr, indices, values = counts.indptr, counts.indices, counts.data
    rows = np.flatnonzero(np.diff(indptr) >= _MIN_DETECTED)
    smallest = np.empty(0, dtype=np.uint64)
    step = max(1, _BLOCK_ENTRIES * len(slide) // max(1, len(values)))
    for block in np.split(rows, range(step, len(rows), step)):
        if not block.size:
            continue
        first, last = indptr[block[0]], indptr[block[-1] + 1]
        bits = values[first:last].astype("<f4").view("<u4").astype(np.uint64)
        entries = np.concatenate([_mix(genes[indices[first:last]] ^ _mix(bits)), np.zeros(1, "u8")])
        # Every second sum runs over one of the rows, those between over what lies between them.
        bounds = np.column_stack([indptr[block], indptr[block + 1]]).ravel() - first
        sums = np.add.reduceat(entries, bounds)[::2]
        smallest = np.unique(np.concatenate([smallest, _mix(sums)]))[:size]
    return tuple(int(value) for value in smallest)


def shared_rows(first: Sequence[int], second: Sequence[int], size: int = _SKETCH_SIZE) -> float:
    """Estimated share of the smaller slide's rows that the other has too, from their sketches.

    A single common row counts as none: it may be an accident, and tells little.
    """
    # A sketch that is not full holds all rows, however large their hashes.
    limit = min((s[-1] for s in (first, second) if len(s) >= size), default=2**64)
    a, b = ({value for value in sketch if value <= limit} for sketch in (first, second))
    common = len(a & b)
    return common / min(len(a), len(b)) if common > 1 else 0.0


def _mix(x: np.ndarray) -> np.ndarray:
    """Finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014): a bijection of uint64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


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
                their lists and names, share expression, coordinates or spots.
        """
        if not train:
            raise UserError("train_slides is empty: an encoder needs at least one training slide")
        if mode not in ("inductive", "transductive"):
            raise UserError(f"mode must be 'inductive' or 'transductive', got {mode!r}")
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
                key: tuple(
                    SlideIdentity(**{**slide, "rows": tuple(slide["rows"])})
                    for slide in record[key]
                )
                for key in ("train", "heldout", "scrna")
            }
            return Split(groups["train"], groups["heldout"], groups["scrna"], record["mode"])
        except (KeyError, TypeError) as error:
            raise UserError(f"the encoder's split record is damaged: {error}") from error


def check_split(split: Split, train: Iterable[Slide], heldout: Iterable[Slide]) -> None:
    """Refuse slides that do not fit the split an encoder was trained under.

    Args:
        split: of the encoder.
        train: slides a later stage trains on.
        heldout: slides a later stage validates or tests on; they need not have been declared.

    Raises:
        ValueError: if a held-out slide shares expression, coordinates or spots with a slide the
            encoder was trained on, a training slide is unknown to the encoder, or the record's
            version is not this one's.
    """
    _check_version(split.version)
    train_ids, heldout_ids = _identities(train), _identities(heldout)
    _refuse_common(split.train, "the encoder's training slides", heldout_ids, "held-out slides")
    _refuse_common(split.scrna, "the encoder's scRNA samples", heldout_ids, "held-out slides")
    known = {slide.expression_hash for slide in split.train}
    unknown = [slide.name for slide in train_ids if slide.expression_hash not in known]
    if unknown:
        raise UserError(
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
            common = b.clash(a)
            if common:
                raise UserError(
                    f"{b.name!r} of {second_name} {common} {a.name!r} of "
                    f"{first_name}: the result would be measured on what was learned from. "
                    "Keep it in one list, or train the encoder anew without it"
                )


def _check_version(version: object) -> None:
    if version != SPLIT_VERSION:
        raise UserError(
            f"the encoder's split record has version {version!r}, this code reads "
            f"{SPLIT_VERSION}; train the encoder anew"
        )
