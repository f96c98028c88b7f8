"""How long reading takes and how much memory: this package beside gemmi and MDTraj.

    python benchmarks/protein/reading.py --out READING.json
    python benchmarks/protein/reading.py --pdb-mb 2 --residues 200 --models 3 --frames 2000

Three simulated inputs, in a folder that is removed at the end: a PDB file of ``--pdb-mb`` MB with
all heavy atoms and as many models of 10,000 residues as that takes; an mmCIF file of ``--residues``
residues and ``--models`` models with the columns that the archive has; an xtc of ``--frames``
frames of 20 residues, of which ``--take`` evenly spaced ones are wanted.

Each reader runs in a process of its own, which imports it first.  The time is that of one call; on
a busy machine processor time is nearer to what an idle one takes.  The memory is the largest
resident set of the process, and what it had before the call.  MDTraj reads all frames and then
takes some;
its PDB and mmCIF readers are left out above ``--mdtraj-mb`` MB, which they need minutes for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mdtraj
import numpy as np

from common.files.atomic import atomic_path
from common.report.machine import processor
from common.report.tables import markdown_table, number, to_json

PER_MODEL = 10_000  # residues
PER_RESIDUE = ("N", "CA", "C", "O", "CB", "CG", "CD", "NE")  # atoms of an average residue
STEP = np.array([3.3, 1.62, 0.0])
PLACES = np.array([
    [0, 0, 0], [1.458, 0, 0], [2.008, 1.42, 0], [1.3, 2.4, 0],
    [1.9, -0.8, 1.2], [1.3, -2.2, 1.2], [1.9, -3.0, 2.4], [1.3, -4.3, 2.5],
])  # fmt: skip
PEPTIDE = 20

CALLS = {
    "protein_cvae": {
        "pdb": "from protein_cvae.io import read_structure as read",
        "cif": "from protein_cvae.io import read_structure as read",
        "xtc": "import protein_cvae.io\n"
        "read = lambda p: protein_cvae.io.load_ensemble(p, max_frames={take})",
    },
    "gemmi": {
        "pdb": "import gemmi\nread = lambda p: gemmi.read_structure(p)",
        "cif": "import gemmi\nread = lambda p: gemmi.read_structure(p)",
    },
    "MDTraj": {
        "pdb": "import mdtraj\nread = mdtraj.load",
        "cif": "import mdtraj\nread = mdtraj.load",
        "xtc": "import mdtraj\n"
        "read = lambda p: mdtraj.load(p, top=p.replace('.xtc', '.pdb'))[:: {frames} // {take}]",
    },
}
PROGRAM = """
import json, sys, time
import warnings
warnings.simplefilter("ignore")
{call}
status = lambda: dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = lambda: int(status()["VmHWM"].split()[0]) / 1024  # of this program alone
before, start, cpu = peak(), time.perf_counter(), time.process_time()
found = read(sys.argv[1])
took = {{"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}}
print(json.dumps(took | {{"peak_mb": peak(), "before_mb": before}}))
"""


def atoms(residues: int, seed: int) -> Iterator[tuple[str, int, np.ndarray]]:
    """Name, residue (from 0) and position in Å of the atoms of a chain in coils of 300 residues."""
    noise = np.random.default_rng(seed).normal(0, 0.02, (residues, len(PER_RESIDUE), 3))
    for i in range(residues):
        turn = np.array([0.0, 0.0, 12.0 * (i // 300)])
        for a, name in enumerate(PER_RESIDUE):
            yield name, i, PLACES[a] + (i % 300) * STEP + turn + noise[i, a]


def pdb_model(residues: int, serial: int) -> str:
    """One model of a PDB file; chains A, B, ... of 5,000 residues."""
    lines = [f"MODEL     {serial:4d}"]
    for k, (name, i, (x, y, z)) in enumerate(atoms(residues, serial)):
        chain = "ABCDEFGH"[i // 5000]
        lines.append(
            f"ATOM  {k % 100_000:5d}  {name:<3s} ALA {chain}{i % 5000 + 1:4d}    "
            f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {name[0]:>2s}  "
        )
    return "\n".join([*lines, "ENDMDL", ""])


def write_pdb(path: Path, megabytes: float) -> None:
    """About so many MB, one model at least."""
    size, serial = 0, 0
    with path.open("w") as file:
        while size < megabytes * 1e6:
            serial += 1
            residues = min(PER_MODEL, max(10, int(megabytes * 1e6 / 81 / len(PER_RESIDUE))))
            size += file.write(pdb_model(residues, serial))
        file.write("END\n")


def write_cif(path: Path, residues: int, models: int) -> None:
    """The columns of the archive's atom table."""
    columns = (
        "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id "
        "label_entity_id label_seq_id pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy "
        "B_iso_or_equiv pdbx_formal_charge auth_seq_id auth_comp_id auth_asym_id auth_atom_id "
        "pdbx_PDB_model_num"
    )
    with path.open("w") as file:
        file.write("data_X\nloop_\n")
        file.writelines(f"_atom_site.{name}\n" for name in columns.split())
        for model in range(1, models + 1):
            for k, (name, i, (x, y, z)) in enumerate(atoms(residues, model)):
                file.write(
                    f"ATOM {k + 1} {name[0]} {name} . ALA A 1 {i + 1} ? {x:.3f} {y:.3f} {z:.3f} "
                    f"1.00 0.00 ? {i + 1} ALA A {name} {model}\n"
                )
        file.write("#\n")


def write_xtc(path: Path, frames: int) -> None:
    """A short peptide, and its topology beside it."""
    path.with_suffix(".pdb").write_text(pdb_model(PEPTIDE, 1) + "END\n")
    table = mdtraj.load(str(path.with_suffix(".pdb")))
    generator = np.random.default_rng(0)
    with mdtraj.formats.XTCTrajectoryFile(str(path), "w") as file:
        for first in range(0, frames, 1000):
            shape = (min(1000, frames - first), table.n_atoms, 3)
            file.write(table.xyz + generator.normal(0, 0.005, shape).astype(np.float32))


def measured(call: str, path: Path) -> dict[str, float]:
    """Seconds and MB of one call in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(call=call), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--pdb-mb", type=float, default=200, help="size of the PDB file")
    parser.add_argument("--residues", type=int, default=10_000, help="of the mmCIF file")
    parser.add_argument("--models", type=int, default=20, help="of the mmCIF file")
    parser.add_argument("--frames", type=int, default=1_000_000, help="of the trajectory")
    parser.add_argument("--take", type=int, default=100, help="frames that are wanted")
    parser.add_argument("--mdtraj-mb", type=float, default=20, help="largest text file for MDTraj")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        files = {kind: Path(scratch) / f"simulated.{kind}" for kind in ("pdb", "cif", "xtc")}
        folder = Path(scratch) / "xtc"
        folder.mkdir()
        files["xtc"] = folder / "simulated.xtc"
        write_pdb(files["pdb"], options.pdb_mb)
        write_cif(files["cif"], options.residues, options.models)
        write_xtc(files["xtc"], options.frames)
        for kind, path in files.items():
            megabytes = path.stat().st_size / 1e6
            for reader, calls in CALLS.items():
                if kind not in calls:
                    continue
                if reader == "MDTraj" and kind != "xtc" and megabytes > options.mdtraj_mb:
                    continue
                call = calls[kind].format(take=options.take, frames=options.frames)
                row = {"file": kind, "file_mb": megabytes, "reader": reader}
                rows.append(row | measured(call, path))
                print(rows[-1], file=sys.stderr)
    print(
        markdown_table(
            ["file", "MB", "reader", "seconds", "CPU s", "peak MB", "before MB"],
            [
                [
                    row["file"], number(row["file_mb"], 1), row["reader"],
                    number(row["seconds"], 2), number(row["cpu"], 2), number(row["peak_mb"], 0),
                    number(row["before_mb"], 0),
                ]
                for row in rows
            ],
        )
    )  # fmt: skip
    if options.out is not None:
        command = [
            "benchmarks/protein/reading.py",
            *(sys.argv[1:] if arguments is None else arguments),
        ]
        found = {"command": " ".join(command), "machine": processor(), "rows": rows}
        with atomic_path(options.out) as partial:
            partial.write_text(to_json(found, indent=2, escape=True), encoding="utf-8")


if __name__ == "__main__":
    main()
