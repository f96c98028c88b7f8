"""The columns of an evaluation: what is printed under which title, and which way is better.

A metric of conformers is a number of :class:`~protein_cvae.evaluation.metrics.EnsembleScores` or of
:meth:`~protein_cvae.geometry.validity.Validity.summary` with its row here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A column.

    Attributes:
        title: with its unit.
        better: ``high``, ``low``, near ``one``, or near the value of the ``real`` models.
    """

    title: str
    better: Literal["high", "low", "one", "real"]


# Of conformers, by their key in a row; ``_c`` is the core, ``_a`` all residues.
METRICS: dict[str, Metric] = {
    "min_rmsd_c": Metric("minRMSD core, Å", "low"),
    "min_rmsd_a": Metric("minRMSD all, Å", "low"),
    "coverage_c": Metric("covered, core", "high"),
    "precision_c": Metric("precision core, Å", "low"),
    "precision_a": Metric("precision all, Å", "low"),
    "spread_a": Metric("mean pairwise RMSD all, Å", "real"),
    "spread_ratio_c": Metric("spread ratio core", "one"),
    "spread_ratio_a": Metric("spread ratio all", "one"),
    "rmsf_correlation_a": Metric("RMSF r", "high"),
    "wasserstein_c": Metric("PCA 2-Wasserstein core, Å", "low"),
    "wasserstein_a": Metric("PCA 2-Wasserstein all, Å", "low"),
    "bond_z_rms": Metric("bond z, rms", "low"),
    "angle_z_rms": Metric("angle z, rms", "low"),
    "omega_rms": Metric("ω off plane, ° rms", "low"),
    "inside": Metric("residues inside 4 sd", "high"),
    "broken": Metric("peptide bonds > 1.4 Å", "low"),
    "favoured": Metric("Ramachandran favoured", "high"),
    "outlier": Metric("Ramachandran outliers", "low"),
    "clash": Metric("conformers with a CA clash", "low"),
    "positive_phi": Metric("φ > 0, not Gly", "real"),
    "right_handed_helix": Metric("right-handed helices", "high"),
    "valid": Metric("valid conformers", "high"),
    "seconds": Metric("seconds per conformer", "low"),
}
RECONSTRUCTION_COLUMNS = {
    "ca_core": "CA core",
    "ca_all": "CA all",
    "backbone_core": "N, CA, C core",
    "backbone_all": "N, CA, C all",
}
EFFECT_COLUMNS = {
    "rms": "all residues, Å rms",
    "own": "moved residue, Å",
    "largest": "residue that moves most, Å",
    "extent": "extent",
    "within_5": "within 5 residues",
    "within_10A": "within 10 Å",
    "still": "moves without effect",
}
PROTEIN_COLUMNS = (
    "min_rmsd_c",
    "min_rmsd_a",
    "spread_ratio_a",
    "rmsf_correlation_a",
    "inside",
    "outlier",
    "valid",
)
