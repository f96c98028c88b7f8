"""Reading and writing conformational ensembles: PDB, mmCIF, trajectories, download."""

from protein_cvae.io.download import download_structure
from protein_cvae.io.find import ensemble_names, find_ensembles, load_ensemble
from protein_cvae.io.mapped import map_trajectory
from protein_cvae.io.read import read_conformers, read_structure
from protein_cvae.io.trajectory import read_trajectory
from protein_cvae.io.trajectory_folder import load_trajectory_folder
from protein_cvae.io.write import write_ensemble

__all__ = [
    "download_structure",
    "ensemble_names",
    "find_ensembles",
    "load_ensemble",
    "load_trajectory_folder",
    "map_trajectory",
    "read_conformers",
    "read_structure",
    "read_trajectory",
    "write_ensemble",
]
