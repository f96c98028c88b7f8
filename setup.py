"""Builds the optional compiled kernels; everything else stands in pyproject.toml.

The extension needs torch at build time and a C++ compiler.  Without them the package installs
all the same and runs on block-wise PyTorch.  For a working copy:
``python setup.py build_ext --inplace``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from setuptools import setup  # type: ignore[import-untyped]


def extension_arguments() -> dict[str, Any]:
    try:
        from torch.utils import cpp_extension
    except ImportError:
        print("torch is not importable: the sparse extension is not built", file=sys.stderr)
        return {}

    class OptionalBuild(cpp_extension.BuildExtension):
        """A build whose failure costs speed, not the installation."""

        def run(self) -> None:
            asked = self.inplace and not self.editable_mode  # run() changes both
            try:
                super().run()
            except Exception as error:
                if asked:
                    raise  # `build_ext --inplace` asked for just this
                print(f"the sparse extension is not built: {error}", file=sys.stderr)

    code = Path("common/sparse/csrc")
    # at::parallel_for is a header: without OpenMP it compiles to a loop on one thread.
    threads = ["-fopenmp"] if sys.platform == "linux" else []
    extension = cpp_extension.CppExtension(
        "common.sparse._C",
        sorted(str(path) for path in code.glob("*.cpp")),
        depends=sorted(str(path) for pattern in ("*.h", "*.inc") for path in code.glob(pattern)),
        optional=True,
        # -fno-math-errno only drops errno; NaN and infinity keep their meaning.
        extra_compile_args=["-O3", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", *threads],
        extra_link_args=threads,
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": OptionalBuild}}


setup(**extension_arguments())
