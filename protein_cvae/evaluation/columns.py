"""The columns of an evaluation: what is printed under which title.

A metric of conformers is a number of :class:`~protein_cvae.evaluation.metrics.EnsembleScores` or of
:meth:`~protein_cvae.geometry.validity.Validity.summary` with its row here.
"""

from __future__ import annotations

# Of conformers, title with unit by their key in a row; ``_c`` is the core, ``_a`` all residues.
METRICS: dict[str, str] = {
    "min_rmsd_c": "minRMSD core, Å",
    "min_rmsd_a": "minRMSD all, Å",
    "coverage_c": "covered, core",
    "precision_c": "precision core, Å",
    "precision_a": "precision all, Å",
    "spread_a": "mean pairwise RMSD all, Å",
    "spread_ratio_c": "spread ratio core",
    "spread_ratio_a": "spread ratio all",
    "rmsf_correlation_a": "RMSF r",
    "wasserstein_c": "PCA 2-Wasserstein core, Å",
    "wasserstein_a": "PCA 2-Wasserstein all, Å",
    "bond_z_rms": "bond z, rms",
    "angle_z_rms": "angle z, rms",
    "omega_rms": "ω off plane, ° rms",
    "inside": "residues inside 4 sd",
    "broken": "peptide bonds > 1.4 Å",
    "favoured": "Ramachandran favoured",
    "outlier": "Ramachandran outliers",
    "clash": "conformers with a CA clash",
    "positive_phi": "φ > 0, not Gly",
    "right_handed_helix": "right-handed helices",
    "valid": "valid conformers",
    "seconds": "seconds per conformer",
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
RATE_COLUMNS = {
    "dimensions": "numbers",
    "nats": "nats per residue",
    "nats_motion": "without turns",
    "ca_core": "CA core, Å",
    "ca_all": "CA all, Å",
}
