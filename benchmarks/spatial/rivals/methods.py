"""The published methods that :mod:`outside_rivals` compares with, and how each is started.

Their dependencies clash with ours and with each other, so each lives in an environment that the
user makes, and some in a checkout of their source.  Nothing of them is in this repository.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from common.errors import CannotRun, MissingFile, MissingPackage
from rivals.protocol import Answer, Task

_HERE = Path(__file__).resolve().parent
_THREADS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "LOKY_MAX_CPU_COUNT",
)  # fmt: skip
_ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")


@dataclass(frozen=True)
class Method:
    """A published method.

    Attributes:
        name: in the tables.
        key: in the names of options and drivers.
        packages: what ``pip install`` needs in its environment.
        repository: of its source, where that is no package.
    """

    name: str
    key: str
    packages: str
    repository: str = ""

    @property
    def driver(self) -> Path:
        return _HERE / f"run_{self.key}.py"


METHODS = {
    method.key: method
    for method in (
        Method(
            "LUNA",
            "luna",
            "torch torch_geometric pytorch-lightning hydra-core wandb colorcet seaborn scanpy "
            "linear_attention_transformer",
            "https://github.com/mlbio-epfl/LUNA",
        ),
        Method("CeLEry", "celery", "CeLEryPy"),
        Method("STEM", "stem", "torch scSTEM"),
        Method(
            "CellContrast",
            "cellcontrast",
            "torch scanpy",
            "https://github.com/HKU-BAL/CellContrast",
        ),
        Method("SC2Spa", "sc2spa", "SC2Spa tensorflow anndata pandas scikit-learn ipython"),
    )
}
"""By key."""


@dataclass(frozen=True)
class Installed:
    """A method and where the user has it.

    Attributes:
        method: which.
        python: of its environment; None if not given.
        source: its checkout; None if not given.
    """

    method: Method
    python: Path | None
    source: Path | None = None

    def command(self, task: Path, answer: Path) -> list[str]:
        """What to run.

        Raises:
            ModuleNotFoundError: if the environment or the checkout was not given.
            FileNotFoundError: if one is not there.
        """
        method = self.method
        if self.python is None:
            raise MissingPackage(
                f"{method.name} needs --{method.key}-python, the Python of an environment with "
                f"`pip install {method.packages}`"
            )
        if not self.python.is_file():
            raise MissingFile(f"--{method.key}-python {self.python}: there is no such file")
        command = [str(self.python.absolute()), str(method.driver), str(task), str(answer)]
        if not method.repository:
            return command
        if self.source is None:
            raise MissingPackage(
                f"{method.name} needs --{method.key}-source, a checkout: "
                f"`git clone {method.repository}`"
            )
        if not self.source.is_dir():
            raise MissingFile(f"--{method.key}-source {self.source}: there is no such folder")
        return [*command, str(self.source.absolute())]

    def solve(self, task: Task, folder: Path, limit_s: float, threads: int) -> Answer:
        """Run it in a folder, which keeps its task, its answer and ``log.txt``.

        Raises:
            ModuleNotFoundError, FileNotFoundError: as :meth:`command`.
            RuntimeError: if it fails or takes longer than the limit; its last words are named.
            ValueError: if its answer does not fit the task.
        """
        folder = folder.resolve()
        paths = folder / "task.npz", folder / "answer.npz"
        command = self.command(*paths)
        folder.mkdir(parents=True, exist_ok=True)
        paths[1].unlink(missing_ok=True)
        task.write(paths[0])
        log = folder / "log.txt"
        # Where ours are found is nothing to it.
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        environment |= dict.fromkeys(_THREADS, str(threads)) | {"CUDA_VISIBLE_DEVICES": ""}
        with log.open("w") as file:
            try:
                done = subprocess.run(
                    command, cwd=folder, env=environment, timeout=limit_s, check=False,
                    stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise CannotRun(f"{self.method.name}: no answer after {limit_s:.0f} s") from None
        if done.returncode or not paths[1].is_file():
            raise CannotRun(f"{self.method.name}: {_last_words(log)}")
        return _checked(Answer.read(paths[1]), task, self.method.name)


def _checked(answer: Answer, task: Task, name: str) -> Answer:
    expected = [(len(part.counts), 2) for part in task.test]
    if not answer.layouts:
        raise CannotRun(f"{name} answered without a layout")
    for layouts in answer.layouts.values():
        got = [xy.shape for xy in layouts]
        if got != expected:
            raise CannotRun(f"{name} answered layouts of {got} for slides of {expected}")
    return answer


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    # Others have the last word after a traceback, such as TensorFlow.
    errors = [line for line in lines if _ERROR.match(line)]
    return (errors or lines or ["it ended without a word"])[-1][:300]
