"""The pictures of README and docs, from real data that the models did not see.

    python benchmarks/figures.py layout DATA/st/dlpfc       # docs/figures/layout.png
    python benchmarks/figures.py traces DATA/ensembles/nmr  # docs/figures/traces.png

``layout``: spatial_ipa at laptop size (10 epochs) on section 151673 of a human prefrontal cortex;
section 151675 of the same donor is placed from its expression.  137 pixels are 100 µm.

``traces``: protein_cvae at laptop size (1 epoch of 100 steps) on NMR ensembles, 2sdf and its
relatives kept out; conformers are drawn over its NMR models.

Models are kept in ``--work`` and used again.  Minutes each on two idle cores.
"""

from __future__ import annotations

import argparse
import io
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

import protein_cvae
import spatial_ipa
from common.files.atomic import atomic_path
from protein_cvae.presets import LAPTOP

DPI = 110
_COLOURS = 256  # of the PNG: a third of the bytes, and nothing to be seen
_MICROMETRES = 100 / 137  # per pixel of dlpfc
_COUNT = 100  # conformers generated


def layout(data: Path, work: Path) -> Figure:
    """Section 151675 of dlpfc: true, predicted, spread over draws."""
    model = spatial_ipa.fit(str(data / "151673.h5ad"), out=work / "dlpfc")
    placed = model.place(data / "151675.h5ad", kind="st")
    return spatial_ipa.pl.comparison(
        placed, name="human cortex, section 151675 (held out)", micrometres=_MICROMETRES
    )


def traces(data: Path, work: Path) -> Figure:
    """2sdf (SDF-1α, a chemokine): NMR models, generated ones, and the flexibility of both."""
    out = work / "nmr"
    if (out / "protein_cvae.ckpt").is_file():
        model = protein_cvae.load(out / "protein_cvae.ckpt")
    else:
        # 2jp1 is lymphotactin in its other fold: a relative that sequence identity does not see.
        size = replace(LAPTOP, split=protein_cvae.SplitSettings(families=(("2sdf", "2jp1"),)))
        model = protein_cvae.fit(str(data), out, size, epochs=1, families_held_out=["2sdf"])
    real = protein_cvae.read(data / "2sdf.pdb.gz")
    new = model.generate(real, _COUNT)
    return protein_cvae.pl.traces({"NMR": real, "generated": new}, flexibility=True)


def save(figure: Figure, path: Path) -> None:
    """Write a small PNG: an adaptive palette of 256 colours."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", facecolor="white")
    image = Image.open(buffer).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        image.save(partial, format="png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", choices=["layout", "traces"])
    parser.add_argument("data", type=Path, help="folder of the slides or of the ensembles")
    parser.add_argument("--out", type=Path, help="default: docs/figures/PICTURE.png")
    parser.add_argument("--work", type=Path, default=Path("runs/figures"))
    given = parser.parse_args()
    path = given.out or Path("docs/figures") / f"{given.picture}.png"
    save({"layout": layout, "traces": traces}[given.picture](given.data, given.work), path)
    print(path)


if __name__ == "__main__":
    main()
