"""What an evaluation has found of each protein, kept until its end: one JSON file per protein.

A file is written whole when its protein is done, under a name that holds a hash of the model's
weights and sizes, the settings, the way of finishing, the versions of this package and of torch,
the kind of device, and the protein's models, how they are divided, and what is core.  Whatever is
asked for again under the same hash is read instead of computed, by any number of processes: they
write different proteins, or the same content.  Files of another hash are left alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from common.files.atomic import atomic_path
from common.files.identity import tensor_hash
from common.files.outputs import prepare_folder
from common.report.tables import to_json
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.cells import Row
from protein_cvae.evaluation.physicality import Counts
from protein_cvae.evaluation.scores import LatentScores, Moments, pooled_active_units
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.geometry.refine import FinishOptions
from protein_cvae.model.network import ProteinCVAE

_FORMAT = 1  # of the files; raised whenever a score is computed otherwise


@dataclass(frozen=True)
class Record:
    """One protein of an evaluation, of what JSON has words for: it comes back as it was.

    Attributes:
        name, group: of the protein.
        left_out: residues that are not scored.
        rows: its lines of evaluation.jsonl.
        effects: its lines of latent_effects.jsonl.
        physicality: counts per conformer by method.
        moments: by latent, ``[count, [sums], [sums of squares]]`` of the posterior means.
        map: (M, ...) a point per model, z_global first.
        d_global: numbers of z_global.
        figures: names of the files that were drawn.
        folder: where they were drawn.
        processor: that computed it.
    """

    name: str
    group: str
    left_out: list[str]
    rows: list[Row]
    effects: list[Row]
    physicality: dict[str, Counts]
    moments: dict[str, list[Any]]
    map: list[list[float]]
    d_global: int
    figures: list[str]
    folder: str
    processor: str


def latent_entries(latents: LatentScores) -> dict[str, Any]:
    """The entries of a :class:`Record` that hold the use of the latents."""
    pools = {"global": latents.global_moments, "local": latents.local_moments}
    return {
        "moments": {
            name: [m.count, m.total.tolist(), m.square.tolist()] for name, m in pools.items()
        },
        "map": latents.map.tolist(),
        "d_global": latents.d_global,
    }


def active_units(records: Sequence[Record]) -> dict[str, tuple[int, int]]:
    """By latent, active units over all models of all proteins, and the dimensions there are."""
    found = {}
    for latent in records[0].moments:
        moments = [_moments(record.moments[latent]) for record in records]
        found[latent] = (pooled_active_units(moments), len(moments[0].total))
    return found


def _moments(entry: Sequence[Any]) -> Moments:
    count, *sums = entry
    total, square = (torch.tensor(values, dtype=torch.float64) for values in sums)
    return Moments(count, total, square)


class Progress:
    """The files of one evaluation.

    Args:
        folder: of the files; made when the first is written.
        network: that is judged.
        settings: of the evaluation; its ``output`` does not count.
        finishing: how its output is finished; None judges the decoder's own.
    """

    def __init__(
        self,
        folder: Path,
        network: ProteinCVAE,
        settings: EvaluationSettings,
        finishing: FinishOptions | None,
    ) -> None:
        self.folder = folder
        chosen = {name: value for name, value in asdict(settings).items() if name != "output"}
        self._run = to_json(
            {
                "format": _FORMAT,
                "versions": [_version(), torch.__version__],
                "device": network.device.type,
                "network": asdict(network.settings),
                "weights": tensor_hash(network.state_dict()),
                "settings": chosen,
                "finishing": None if finishing is None else asdict(finishing),
            }
        )

    def read(self, case: EvaluationCase) -> Record | None:
        """What was found of a protein; None if nothing was, under this hash."""
        path = self.path(case)
        if not path.is_file():
            return None
        try:
            return Record(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):  # a disk that was full, or another program's file
            return None

    def write(self, case: EvaluationCase, record: Record) -> None:
        """Keep what was found of a protein; the file is complete or absent."""
        prepare_folder(self.folder, "evaluation.output")
        with atomic_path(self.path(case)) as partial:
            partial.write_text(to_json(asdict(record), indent=None), encoding="utf-8")

    def path(self, case: EvaluationCase) -> Path:
        """The file of a protein."""
        digest = case_hash(case, self._run)
        return self.folder / f"{case.name.replace('/', '_')}-{digest[:32]}.json"

    def remove(self, paths: Iterable[Path]) -> None:
        """Remove these files, and the folder if it is empty then."""
        for path in paths:
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def case_hash(case: EvaluationCase, beside: str = "") -> str:
    """SHA-256 of all of a case that scores depend on, and of the text ``beside``."""
    prepared = case.prepared
    ensemble = prepared.ensemble
    tensors = {
        "coordinates": ensemble.coordinates,
        "mask": ensemble.mask,
        "chain_index": ensemble.chain_index,
        "residue_numbers": ensemble.residue_numbers,
        "bonded": ensemble.bonded,
        "core": prepared.core,
        "residue_index": prepared.residue_index,
        "embedding": prepared.embedding,
        "training_aatype": case.training_aatype,
    }
    words = [
        beside,
        case.name,
        case.group,
        ensemble.sequence,
        ensemble.insertion_codes,
        prepared.given,
        prepared.judged,
        prepared.central,
        case.left_out,
    ]
    text = to_json(words, indent=None)
    return hashlib.sha256(f"{text}{tensor_hash(tensors)}".encode()).hexdigest()


def _version() -> str:
    try:
        return version("edgewise")
    except PackageNotFoundError:
        return ""
