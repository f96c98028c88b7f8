"""Settings of the encoder's training, by subject."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from common.errors import UserError
from spatial_ipa.data.expression import Normalisation, Transform
from spatial_ipa.data.keys import read_null
from spatial_ipa.data.split import SplitMode
from spatial_ipa.encoder.views import ViewSettings

Start = Literal["eigenmaps", "spatial", "pca", "random"]


@dataclass(frozen=True)
class TrunkSettings:
    """Size of the trunk.

    Attributes:
        d_out: width of H.
        hidden: widths of the hidden layers.
        dropout: of the hidden units.
    """

    d_out: int = 128
    hidden: tuple[int, int] = (512, 256)
    dropout: float = 0.1

    @property
    def start_width(self) -> int:
        """Most components that a trunk of these widths can compute."""
        return min(self.d_out, self.hidden[0] // 2, self.hidden[1] // 2)


@dataclass(frozen=True)
class StartSettings:
    """What the trunk computes before training.

    Attributes:
        kind: kernel regression to the eigenmaps of the tissue, which stays as it is; or, of an MLP
            that is then trained, spatial PCA, PCA or random.
        rank: principal components within which spatial components are sought.
        num_neighbours: spatial neighbours they average over.
        ridge: their shrinkage.
        width: of the kernels, in units of the mean square distance of two training cells.
        penalty: of the kernel regression.
        max_landmarks: training cells up to which it is exact, and landmark cells beyond.
        smooth: nearest rows of H, on the same slide, that a row is averaged with; 0 for none.

    The last four are of ``eigenmaps`` alone, as the first three are also of ``spatial``.

    Raises:
        ValueError: on an unknown kind, or values out of range.
    """

    kind: Start = "eigenmaps"
    rank: int = 256
    num_neighbours: int = 30
    ridge: float = 0.3
    width: float = 0.3
    penalty: float = 1.0
    max_landmarks: int = 4000
    smooth: int = 10

    def __post_init__(self) -> None:
        if self.kind not in get_args(Start):
            known = ", ".join(get_args(Start))
            raise UserError(f"start.kind must be one of {known}, got {self.kind!r}")
        for name in ("rank", "num_neighbours", "ridge", "width", "penalty", "max_landmarks"):
            if not getattr(self, name) > 0:
                raise UserError(f"start.{name} must be positive, got {getattr(self, name)}")
        if self.smooth < 0:
            raise UserError(f"start.smooth must not be negative, got {self.smooth}")


@dataclass(frozen=True)
class EncoderWeights:
    """Weight of each loss term; a weight of 0 removes a term and its head.

    Attributes:
        vicreg: self-supervised: two views of a spot agree.
        neighbours: soft neighbourhoods in H match those on the tissue.
        stress: distances in H match those on the tissue.
        coral: alignment of covariances between slides and samples.
        mmd: alignment of distributions.
        scrna: distance of scRNA-seq from the slides, which are held still for it; without scRNA-seq
            it does nothing.
        adversary: domain adversary.
        anchor: distance from the start.

    Raises:
        ValueError: on a negative weight.
    """

    vicreg: float = 1.0
    neighbours: float = 1.0
    stress: float = 0.0
    coral: float = 1.0
    mmd: float = 0.0
    scrna: float = 10.0
    adversary: float = 0.0
    anchor: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise UserError(f"weights.{name} must not be negative, got {value}")


@dataclass(frozen=True)
class GeneSettings:
    """Which genes enter, and how their counts are normalised.

    Attributes:
        min_detection: genes detected in a smaller share of training spots are left out.
        num_genes: keep only so many of the most variable genes; null keeps all.
        transform: of the counts scaled to that library size
            (:mod:`spatial_ipa.data.expression`).
        target_sum: library size of the normalisation.

    Raises:
        ValueError: on an unknown transform, or a target sum that is not positive.
    """

    min_detection: float = 0.01
    num_genes: int | None = None
    transform: Transform = "sqrt"
    target_sum: float = 1e4

    def __post_init__(self) -> None:
        Normalisation(self.transform, self.target_sum)  # checked there

    @property
    def normalisation(self) -> Normalisation:
        return Normalisation(self.transform, self.target_sum)


@dataclass(frozen=True)
class DrawSettings:
    """What a training step sees.

    Attributes:
        mode: ``inductive``: held-out slides enter with their identity only.  ``transductive``:
            their expression, never their coordinates, also enters the self-supervised and alignment
            terms.
        select_on: name of a training slide that is kept out of the components and gradients and
            decides which epoch's weights are kept; null keeps the last.
        steps_per_epoch: training steps over all processes.
        spots: most spots per slide and step.
        views: the augmentations.
        num_workers: loader processes.
        seed: of all draws.
    """

    mode: SplitMode = "inductive"
    select_on: str | None = None
    steps_per_epoch: int = 10
    spots: int = 384
    views: ViewSettings = ViewSettings()
    num_workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        read_null(self)
