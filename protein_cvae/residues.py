"""Names of amino-acid residues: three letters to one and back, modified residues to their parents.

The alphabet is the 20 standard amino acids in the order of their letters; the index of a letter is
its ``aatype``, and 20 stands for X, an amino acid of unknown or other kind.  Modified residues
(MSE, PCA, SEP, ...) take the letter of the parent named in the wwPDB Chemical Component
Dictionary, read from Biopython's table.  Names of force fields (protonation states, lipidated or
retinal-bound residues, terminal variants) are not in that dictionary and are listed here.
"""

from __future__ import annotations

import torch
from Bio.Data.PDBData import protein_letters_3to1_extended
from torch import Tensor

from common.errors import UserError

ALPHABET = "ACDEFGHIKLMNPQRSTVWY"
UNKNOWN = len(ALPHABET)  # aatype of X
UNKNOWN_LETTER = "X"
UNKNOWN_NAME = "UNK"

ONE_TO_THREE = {
    "A": "ALA", "C": "CYS", "D": "ASP", "E": "GLU", "F": "PHE", "G": "GLY", "H": "HIS",
    "I": "ILE", "K": "LYS", "L": "LEU", "M": "MET", "N": "ASN", "P": "PRO", "Q": "GLN",
    "R": "ARG", "S": "SER", "T": "THR", "V": "VAL", "W": "TRP", "Y": "TYR",
}  # fmt: skip
THREE_TO_ONE = {three: one for one, three in ONE_TO_THREE.items()}

# AMBER, CHARMM, GROMACS and OPLS.  HSE is CHARMM's histidine here; the component dictionary gives
# the same name to homoserine, which hardly occurs in chains.
FORCE_FIELD = {
    "ASH": "D", "ASPP": "D", "ASPH": "D", "AP1": "D",
    "GLH": "E", "GLUP": "E", "GLUH": "E", "GU1": "E",
    "HID": "H", "HIE": "H", "HIP": "H", "HSD": "H", "HSE": "H", "HSP": "H",
    "HISA": "H", "HISB": "H", "HISD": "H", "HISE": "H", "HISH": "H", "HIS1": "H", "HIS2": "H",
    "CYX": "C", "CYM": "C", "CYS1": "C", "CYS2": "C", "CYSH": "C", "CYSX": "C", "CY2": "C",
    "LYN": "K", "LSN": "K", "LYSN": "K", "LYSH": "K", "LYP": "K",
    "ARN": "R", "ARGN": "R", "TYM": "Y", "TYRM": "Y",
    "LRT": "K",  # lysine with retinal
    "YPL": "C", "CYP": "C",  # palmitoylated cysteine
    # The dictionary gives SEC and PYL letters of their own, U and O; their parents are taken here.
    "SEC": "C", "PYL": "K",
}  # fmt: skip

WATERS = frozenset({"HOH", "WAT", "H2O", "DOD", "TIP", "TIP3", "TIP4", "TIP5", "SOL", "SPC"})
# Single atoms: chemical component dictionary, then the names of CHARMM, AMBER and GROMACS.
IONS = frozenset({
    "NA", "CL", "K", "MG", "CA", "ZN", "MN", "FE", "FE2", "CU", "CU1", "NI", "CO", "CD", "HG", "BR",
    "IOD", "LI", "RB", "CS", "SR", "BA", "AL", "AG", "AU", "PB", "PT", "YB", "SM", "GD", "TB", "EU",
    "SOD", "CLA", "POT", "CAL", "CES", "LIT", "RUB", "BAR", "CAD", "LA", "ZN2", "MG2", "CA2",
    "NA+", "CL-", "K+", "LI+", "RB+", "CS+", "MG+2", "CA+2", "ZN+2", "ION",
})  # fmt: skip
# Groups that end a chain and are no residues of it.
CAPS = frozenset({"ACE", "NME", "NMA", "NAC", "NH2", "FOR", "MYR", "CBX", "BOC"})


def one_letter(name: str) -> str | None:
    """The letter of a residue name, of its parent if it is a modified residue.

    Args:
        name: residue name as a file gives it, e.g. "ALA", "MSE", "HIE"; any case, spaces around
            it are ignored.

    Returns:
        A letter of ``ALPHABET``, or None if the name is not that of a known amino acid or has no
        parent among the 20 (D-amino acids, UNK).
    """
    key = name.strip().upper()
    for table in (THREE_TO_ONE, FORCE_FIELD):
        if key in table:
            return table[key]
    letter = protein_letters_3to1_extended.get(key)
    return letter if letter in ONE_TO_THREE else None


def three_letter(letter: str) -> str:
    """The standard three-letter name of ``letter``; "UNK" for X.

    Raises:
        ValueError: if ``letter`` is neither X nor one of ``ALPHABET``.
    """
    if letter == UNKNOWN_LETTER:
        return UNKNOWN_NAME
    if letter not in ONE_TO_THREE:
        raise UserError(f"letter: expected one of {ALPHABET} or {UNKNOWN_LETTER}, got {letter!r}")
    return ONE_TO_THREE[letter]


def is_standard(name: str) -> bool:
    """Whether ``name`` is the three-letter name of one of the 20 standard amino acids."""
    return name in THREE_TO_ONE


def encode_sequence(sequence: str) -> Tensor:
    """Letters to ``aatype``.

    Args:
        sequence: L letters of ``ALPHABET`` or X.

    Returns:
        (L,) int64, 0..19 the index in ``ALPHABET``, 20 for X.

    Raises:
        ValueError: at another letter, with its position.
    """
    index = {letter: i for i, letter in enumerate(ALPHABET + UNKNOWN_LETTER)}
    for position, letter in enumerate(sequence):
        if letter not in index:
            raise UserError(
                f"sequence: letter {letter!r} at position {position} is none of "
                f"{ALPHABET + UNKNOWN_LETTER}; write X for an unknown residue"
            )
    return torch.tensor([index[letter] for letter in sequence], dtype=torch.int64)
