"""Builds the optional compiled kernels; everything else stands in pyproject.toml.

The extension keeps to the stable ABI of torch and is no Python module, so one build serves every
torch from 2.10 and every Python from 3.11.  It needs the headers of torch and a C++ compiler.
Without them the package installs all the same and runs on block-wise PyTorch.  For a working copy:
``python setup.py build_ext --inplace``.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from setuptools import Extension, setup  # type: ignore[import-untyped]
from setuptools.command.build_ext import build_ext  # type: ignore[import-untyped]

NOT_BUILT = "the sparse extension is not built"
OLDEST_TORCH = (2, 10)


class OptionalBuild(build_ext):
    """A build whose failure costs speed, not the installation; it compiles files side by side."""

    def run(self) -> None:
        self.asked = self.inplace and not self.editable_mode  # run() changes both
        super().run()

    def build_extension(self, extension: Extension) -> None:
        compile_one = self.compiler.compile
        jobs = int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))

        def compile_all(sources: list[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor(jobs) as pool:
                objects = pool.map(lambda source: compile_one([source], **options), sources)
                return [path for paths in objects for path in paths]

        self.compiler.compile = compile_all
        try:
            super().build_extension(extension)
        except Exception as error:
            if self.asked:  # `build_ext --inplace` asked for just this
                raise RuntimeError(f"{NOT_BUILT}: {error}") from error
            print(f"{NOT_BUILT}: {error}", file=sys.stderr)


def torch_folder() -> Path | None:
    """Where torch lies, which is not imported; None, with a line that says why, if it is no use."""
    spec = find_spec("torch")
    try:
        found = version("torch")
    except PackageNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        print(f"{NOT_BUILT}: torch is not installed where the build runs", file=sys.stderr)
        return None
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST_TORCH:
        print(f"{NOT_BUILT}: it needs torch 2.10 or newer, found {found}", file=sys.stderr)
        return None
    return Path(spec.submodule_search_locations[0])


def extension_arguments() -> dict[str, Any]:
    torch = torch_folder()
    if torch is None:
        return {}
    code = Path("common/sparse/csrc")
    major, minor = OLDEST_TORCH
    extension = Extension(
        "common.sparse._C",
        sorted(str(path) for path in code.glob("*.cpp")),
        depends=sorted(str(path) for pattern in ("*.h", "*.inc") for path in code.glob(pattern)),
        language="c++",
        optional=True,
        py_limited_api=True,
        include_dirs=[str(torch / "include")],
        library_dirs=[str(torch / "lib")],
        libraries=["torch_cpu"],
        # Refuses every header of torch, and every function, that is not in the ABI of that version.
        define_macros=[("TORCH_TARGET_VERSION", f"0x{major:02x}{minor:02x}000000000000")],
        # -fno-math-errno only drops errno; NaN and infinity keep their meaning.
        extra_compile_args=[
            *("-std=c++20", "-O3", "-g0", "-Wno-psabi"),
            *("-fno-math-errno", "-fno-trapping-math"),
        ],
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": OptionalBuild},
        "options": {"bdist_wheel": {"py_limited_api": "cp311"}},
    }


setup(**extension_arguments())
