"""Ideal backbone geometry and how far it may vary.

Lengths (Å) and angles (radians) of the peptide backbone with their standard deviations: Engh and
Huber (1991), Acta Cryst. A47, 392-400.  Side-chain and carbonyl values that place Cβ and O are from
the same paper.  The peptide torsion is 180° (trans) or 0° (cis) with a standard deviation of 6°:
MacArthur and Thornton (1996), J. Mol. Biol. 264, 1180-1195.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Restraint:
    """An ideal value and its standard deviation, Å or radians."""

    ideal: float
    deviation: float

    def bounds(self, deviations: float) -> tuple[float, float]:
        """The interval of ``deviations`` standard deviations about the ideal value."""
        return (
            self.ideal - deviations * self.deviation,
            self.ideal + deviations * self.deviation,
        )


def _degrees(ideal: float, deviation: float) -> Restraint:
    return Restraint(math.radians(ideal), math.radians(deviation))


# Atoms of the last-but-one axis of coordinates (..., L, 3, 3).
N, CA, C = 0, 1, 2

# Bonds, Å.  C_N joins residue i to i + 1.
N_CA = Restraint(1.458, 0.019)
CA_C = Restraint(1.525, 0.021)
C_N = Restraint(1.329, 0.014)

# Angles, radians.  CA_C_N and C_N_CA lie across the peptide bond between i and i + 1.
N_CA_C = _degrees(110.8, 2.5)
CA_C_N = _degrees(116.6, 2.0)
C_N_CA = _degrees(121.7, 1.8)

# Peptide torsion, radians: trans is half a turn, cis is zero.
OMEGA_TRANS = _degrees(180.0, 6.0)
OMEGA_CIS = _degrees(0.0, 6.0)

# An entry is inside tolerance where it deviates by at most this many standard deviations.
TOLERANCE = 4.0

# Cβ of an L residue: Engh and Huber, CH1E-CH3E, NH1-CH1E-CH3E and C-CH1E-CH3E means.
CA_CB = 1.530
N_CA_CB = math.radians(110.4)
C_CA_CB = math.radians(110.1)

# Carbonyl oxygen: C-O and CH1E-C-O; of a carboxyl group at a chain's end, C-OC and CH1E-C-OC.
C_O = 1.231
CA_C_O = math.radians(120.8)
C_OXT = 1.249
CA_C_OXT = math.radians(117.0)


@dataclass(frozen=True)
class BetaCarbon:
    """Where Cβ stands: CA-CB, Å; N-CA-CB and C-CA-CB, radians."""

    length: float
    from_n: float
    from_c: float


# Cβ by its kind: CH1E (isoleucine, threonine, valine), CH2E, CH3E (alanine), CH2P (proline).
BRANCHED_CB = BetaCarbon(1.540, math.radians(111.5), math.radians(109.1))
LINEAR_CB = BetaCarbon(1.530, math.radians(110.5), math.radians(110.1))
ALANINE_CB = BetaCarbon(1.521, math.radians(110.4), math.radians(110.5))
PROLINE_CB = BetaCarbon(1.530, math.radians(103.0), math.radians(110.1))
