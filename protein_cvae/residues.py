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

WATERS = frozenset({
    "HOH", "WAT", "H2O", "DOD", "HHO", "OHH", "SOL", "SPC", "SPCE", "T3P", "T4P", "T3H", "W",
    "TIP", "TIP2", "TIP3", "TIP4", "TIP5", "TIP7", "TIPS", "TP3", "TP4", "TP5", "TPE", "TP3F",
    "TP3M", "OPC", "OPC3", "OP3", "SPF", "FB3", "FB4", "PW", "SWM", "SWM4",
})  # fmt: skip
# Single atoms: chemical component dictionary, then the names of CHARMM, AMBER and GROMACS.
IONS = frozenset({
    "NA", "CL", "K", "MG", "CA", "ZN", "MN", "FE", "FE2", "CU", "CU1", "NI", "CO", "CD", "HG", "BR",
    "IOD", "LI", "RB", "CS", "SR", "BA", "AL", "AG", "AU", "PB", "PT", "YB", "SM", "GD", "TB", "EU",
    "SOD", "CLA", "POT", "CAL", "CES", "LIT", "RUB", "BAR", "CAD", "LA", "ZN2", "MG2", "CA2",
    "NA+", "CL-", "K+", "LI+", "RB+", "CS+", "MG+2", "CA+2", "ZN+2", "ION",
})  # fmt: skip
# AMBER puts N or C before the names of terminal residues.
_TERMINAL = THREE_TO_ONE | {key: letter for key, letter in FORCE_FIELD.items() if key in (
    "ASH", "GLH", "HID", "HIE", "HIP", "CYX", "CYM", "LYN", "ARN")}  # fmt: skip
SIDE_CHAINS = {letter: ("CB", *atoms.split()) if letter != "G" else () for letter, atoms in {
    "A": "", "C": "SG", "D": "CG OD1 OD2", "E": "CG CD OE1 OE2", "F": "CG CD1 CD2 CE1 CE2 CZ",
    "G": "", "H": "CG ND1 CD2 CE1 NE2", "I": "CG1 CG2 CD1", "K": "CG CD CE NZ", "L": "CG CD1 CD2",
    "M": "CG SD CE", "N": "CG OD1 ND2", "P": "CG CD", "Q": "CG CD OE1 NE2",
    "R": "CG CD NE CZ NH1 NH2", "S": "OG", "T": "OG1 CG2", "V": "CG1 CG2",
    "W": "CG CD1 CD2 NE1 CE2 CE3 CZ2 CZ3 CH2", "Y": "CG CD1 CD2 CE1 CE2 CZ OH", "X": "",
}.items()}  # fmt: skip
"""Heavy side-chain atoms by letter, in the order of PDB files; of X, CB alone."""
SIDE_CHAIN_SLOTS = max(len(atoms) for atoms in SIDE_CHAINS.values())
# Names of other programs, and of selenium, which stands where the parent has sulphur.
_SAME_ATOMS = {("I", "CD"): "CD1", ("M", "SE"): "SD", ("C", "SE"): "SG"}
# Oxygens of a C-terminus, beside O: PDB and AMBER, CHARMM, GROMACS.
TERMINAL_ATOMS = frozenset({"OXT", "OT1", "OT2", "OC1", "OC2", "O1", "O2"})
_NO_SIDE_CHAIN = TERMINAL_ATOMS | {"N", "CA", "C", "O"}
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
    if len(key) == 4 and key[0] in "NC" and key[1:] in _TERMINAL:
        return _TERMINAL[key[1:]]
    letter = protein_letters_3to1_extended.get(key)
    return letter if letter in ONE_TO_THREE else None


def cut_letters(name: str) -> str:
    """Letters of the AMBER names of terminal residues that begin with these three letters.

    Formats with three columns for a name cut NMET to NME, which is also a cap, and CALA to CAL,
    which is also calcium; "DN" of NAS, which may be NASP or NASN, in the order of the alphabet.
    """
    key = name.strip().upper()
    if len(key) != 3 or key[0] not in "NC":
        return ""
    return "".join(sorted({letter for full, letter in _TERMINAL.items() if full[:2] == key[1:]}))


def side_chain_letter(atoms: frozenset[str], choices: str) -> str | None:
    """The one of these letters that has just these heavy side-chain atoms, or None.

    Args:
        atoms: names of all atoms of a residue.
        choices: letters.
    """
    heavy = frozenset(atom for atom in atoms if atom[:1] in "CNOS") - _NO_SIDE_CHAIN
    if "CB" not in atoms:
        return None  # of a backbone alone, or of glycine
    heavy = frozenset("CD1" if atom == "CD" and "CG1" in heavy else atom for atom in heavy)
    found = [letter for letter in choices if frozenset(SIDE_CHAINS[letter]) == heavy]
    return found[0] if len(found) == 1 else None


def side_chain_names() -> frozenset[str]:
    """All names that :func:`side_chain_slot` knows."""
    standard = {name for names in SIDE_CHAINS.values() for name in names}
    return frozenset(standard | {name for _, name in _SAME_ATOMS})


def side_chain_slot(letter: str, atom: str) -> int | None:
    """Place of an atom among ``SIDE_CHAINS[letter]``; None if it is none of them.

    Args:
        letter: one of ``ALPHABET`` or X.
        atom: its name in a file, e.g. "CG1", "CD" of isoleucine, "SE" of selenomethionine.
    """
    names = SIDE_CHAINS[letter]
    name = _SAME_ATOMS.get((letter, atom), atom)
    return names.index(name) if name in names else None


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
