"""Published rivals: what they are sent, what is made of their answers, and what if they fail."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from common.errors import MissingPackage, UserError
from spatial_ipa.data.panels import select_genes
from spatial_ipa.data.read import read_slide
from spatial_ipa.data.simulation.files import TissuePaths, TissueSpec, write_tissue
from spatial_ipa.data.slide import Slide
from spatial_ipa.evaluation.scorer import SlideScorer

_FAKE = Path(__file__).with_name("fake_rival.py")


@pytest.fixture(scope="module")
def outside(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("spatial/outside_rivals")


@pytest.fixture(scope="module")
def protocol(outside: ModuleType) -> ModuleType:
    return sys.modules[outside.Task.__module__]


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> TissuePaths:
    spec = TissueSpec(num_slides=4, spots_per_slide=100, num_genes=120, num_cells=20)
    return write_tissue(spec, tmp_path_factory.mktemp("tissue") / "tissue")


@pytest.fixture
def fake(outside: ModuleType, monkeypatch: pytest.MonkeyPatch) -> str:
    """A rival in the table of methods; its key."""

    @dataclass(frozen=True)
    class Fake(type(outside.METHODS["luna"])):  # type: ignore[misc]
        @property
        def driver(self) -> Path:
            return _FAKE

    method = Fake("Fake", "fake", "fake-rival", "https://example.org/fake")
    monkeypatch.setitem(outside.METHODS, "fake", method)
    return "fake"


def command(tissue: TissuePaths, out: Path, behaviour: str) -> list[str]:
    """Two slides train, two are placed, by the fake rival."""
    first, second, *test = map(str, tissue.slides)
    source = out / behaviour
    source.mkdir(exist_ok=True, parents=True)
    return [
        "--slides", f"train={first},{second}", f"test={','.join(test)}", "--out", str(out),
        "--rivals", "fake", "--fake-python", sys.executable, "--fake-source", str(source),
    ]  # fmt: skip


def rows_in(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_a_rival_is_scored_on_the_slides_left_out(
    outside: ModuleType, fake: str, tissue: TissuePaths, tmp_path: Path
) -> None:
    outside.main(command(tissue, tmp_path, "well"))
    rows = rows_in(tmp_path)
    found = {(row["slide"], row["inference"]): row for row in rows}
    assert set(found) == {(s, w) for s in ("slide_2", "slide_3") for w in ("", "mirrored")}
    slides = [read_slide(path) for path in tissue.slides]
    train, xy = [], []
    for slide in slides[:2]:
        assert slide.xy is not None
        train.append(slide.counts.toarray())
        xy.append(slide.xy - slide.xy.astype(np.float64).mean(axis=0))
    for slide in slides[2:]:
        assert slide.xy is not None
        # All genes are sent, in another order, which changes no distance of whole numbers.
        at = cdist(slide.counts.toarray(), np.concatenate(train), "sqeuclidean").argmin(axis=1)
        scorer, layout = SlideScorer(slide.xy, seed=0), np.concatenate(xy)[at]
        for way, sign in (("", 1), ("mirrored", -1)):
            scores = scorer.score(sign * layout)
            row = found[slide.name, way]
            assert {k: row[k] for k in scores} == pytest.approx(scores, rel=1e-4, abs=1e-6)
            named = {k: row[k] for k in ("method", "condition", "split", "seed", "tag", "rotate")}
            assert named == {
                "method": "Fake", "condition": "outside rivals", "split": "own", "seed": 0,
                "tag": "laptop", "rotate": False,
            }  # fmt: skip
            figures = ("train_s", "predict_s", "epochs", "epochs_asked", "rival")
            assert [row[k] for k in figures] == [1.5, 0.5, 3, 7, "fake 1.0"]


def test_what_is_there_is_not_run_again_but_for_failures(
    outside: ModuleType, fake: str, tissue: TissuePaths, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="2 slide"):
        outside.main(command(tissue, tmp_path, "dies"))
    failed = rows_in(tmp_path)
    assert [row["slide"] for row in failed] == ["slide_2", "slide_3"]
    assert all("no such luck" in row["failed"] for row in failed)
    outside.main(command(tissue, tmp_path, "well"))
    assert rows_in(tmp_path) == failed
    outside.main([*command(tissue, tmp_path, "well"), "--again"])
    after = rows_in(tmp_path)
    assert after[:2] == failed
    assert len(after) == 6
    outside.main(command(tissue, tmp_path, "dies"))
    assert rows_in(tmp_path) == after


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [("short", "layouts of"), ("nan", "NaN or infinity"), ("sleeps", "no answer after 3 s")],
)
def test_an_answer_that_cannot_be_used_is_a_failure(
    outside: ModuleType, fake: str, tissue: TissuePaths, tmp_path: Path, behaviour: str, why: str
) -> None:
    with pytest.raises(SystemExit, match="without a result"):
        outside.main([*command(tissue, tmp_path, behaviour), "--limit", "3"])
    rows = rows_in(tmp_path)
    assert len(rows) == 2
    assert all(why in row["failed"] and row["inference"] == "failed" for row in rows)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            [],
            "Fake needs --fake-python, the Python of an environment with `pip install fake-rival`",
        ),
        (["--fake-python", "nowhere"], "--fake-python nowhere: there is no such file"),
        (["--fake-python", sys.executable], "`git clone https://example.org/fake`"),
        (
            ["--fake-python", sys.executable, "--fake-source", "nowhere"],
            "--fake-source nowhere: there is no such folder",
        ),
    ],
)
def test_a_rival_that_is_missing_says_what_to_install(
    outside: ModuleType,
    fake: str,
    tissue: TissuePaths,
    tmp_path: Path,
    options: list[str],
    why: str,
) -> None:
    given = command(tissue, tmp_path, "well")[:7]
    assert given[-1] == "fake"
    with pytest.raises(SystemExit, match="without a result"):
        outside.main([*given, *options])
    assert all(why in row["failed"] for row in rows_in(tmp_path))


def test_every_method_says_what_it_needs(outside: ModuleType, tmp_path: Path) -> None:
    assert list(outside.METHODS) == ["luna", "celery", "stem", "cellcontrast", "sc2spa"]
    for method in outside.METHODS.values():
        assert method.driver.is_file()
        with pytest.raises(MissingPackage, match=f"{method.name} needs --{method.key}-python"):
            outside.Installed(method, None).command(tmp_path, tmp_path)


@pytest.mark.parametrize("splits", [["her2st_B"], ["choosing", "shifts"], ["confirmation"]])
def test_splits_without_choices_want_to_be_asked_for(
    outside: ModuleType, splits: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        outside.main(["--data", "nowhere", "--out", str(out), "--splits", *splits])
    assert "--final runs them, once" in capsys.readouterr().err
    assert not out.exists()


def slides_of(counts: list[np.ndarray], logged: bool = False) -> list[Slide]:
    """Slides of given counts; spots lie on a grid, each slide in a unit of its own."""
    genes = [f"g{i}" for i in range(counts[0].shape[1])]
    return [
        Slide.build(
            f"s{i}", x, genes, (i + 1) * np.indices((10, 6)).reshape(2, -1).T.astype(np.float32),
            is_logged=logged,
        )
        for i, x in enumerate(counts)
    ]  # fmt: skip


def fake_runner(slides: list[Slide]) -> SimpleNamespace:
    return SimpleNamespace(train=slides[:-1], test=slides[-1:], seed=4)


def test_a_task_holds_the_fold_and_no_coordinates_to_be_predicted(
    outside: ModuleType, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    slides = slides_of([rng.poisson(3, (60, 103)).astype(np.float32) for _ in range(3)])
    task = outside.make_task(fake_runner(slides), num_genes=20, budget_s=9.0)
    genes = select_genes(slides[:2], slides[0].genes, 20)
    for part, slide in zip((*task.train, *task.test), slides, strict=True):
        columns = [slide.genes.index(gene) for gene in genes]
        np.testing.assert_array_equal(part.counts, slide.counts.toarray()[:, columns])
        np.testing.assert_allclose(part.sizes, slide.counts.toarray().sum(axis=1))
    for part, slide in zip(task.train, slides, strict=False):
        assert slide.xy is not None
        np.testing.assert_allclose(part.xy.mean(axis=0), 0, atol=1e-9)
        np.testing.assert_allclose(np.diff(part.xy, axis=0), np.diff(slide.xy, axis=0))
    assert task.test[0].xy is None
    assert (task.seed, task.budget_s, task.imaging) == (4, 9.0, True)
    task.write(tmp_path / "task.npz")
    again = type(task).read(tmp_path / "task.npz")
    for mine, other in zip((*task.train, *task.test), (*again.train, *again.test), strict=True):
        for name in ("counts", "sizes", "xy"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(other, name))
            if getattr(mine, name) is not None:
                assert getattr(mine, name).dtype == getattr(other, name).dtype
    assert (again.seed, again.budget_s, again.imaging) == (4, 9.0, True)


def test_genes_are_chosen_without_the_slides_to_be_predicted(outside: ModuleType) -> None:
    rng = np.random.default_rng(1)
    counts = [rng.poisson(3, (60, 103)).astype(np.float32) for _ in range(3)]
    before = outside.make_task(fake_runner(slides_of(counts)), 10, 1.0)
    counts[2] = counts[2] * rng.integers(0, 40, 103)
    after = outside.make_task(fake_runner(slides_of(counts)), 10, 1.0)
    for one, other in zip(before.train, after.train, strict=True):
        np.testing.assert_array_equal(one.counts, other.counts)


def test_logarithms_are_refused(outside: ModuleType) -> None:
    slides = slides_of([np.ones((60, 103)) for _ in range(3)], logged=True)
    with pytest.raises(UserError, match="s0, s1, s2: logarithms"):
        outside.make_task(fake_runner(slides), 10, 1.0)


def test_registered_slides_are_turned_as_the_regressions_have_them(
    outside: ModuleType, tissue: TissuePaths
) -> None:
    """The same slide twice, the second time turned: registered, both lie alike."""
    fold = SimpleNamespace(name="f", train=(), test=())
    runner = outside.Runner(Namespace(data=None, rotate=False), fold, 0)
    one, other = read_slide(tissue.slides[0]), read_slide(tissue.slides[1])
    assert one.xy is not None
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]], dtype=np.float32)
    turned = Slide.build("turned", one.counts, one.genes, one.xy @ turn)
    runner.train, runner.test = [one, turned], [other]
    apart, together = (outside.make_task(runner, 50, 1.0, register=r).train for r in (False, True))
    assert np.abs(apart[0].xy - apart[1].xy).max() > 0.5 * np.ptp(apart[0].xy)
    np.testing.assert_allclose(together[0].xy, together[1].xy, atol=1e-3)


def test_an_answer_comes_back_as_it_was(protocol: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layouts = {way: [rng.random((n, 2)) for n in (3, 4)] for way in ("", "de novo", "a_b_1")}
    answer = protocol.Answer(layouts, 1.0, 2.0, 3, 4, "LUNA 4ea29c14")
    answer.write(tmp_path / "answer.npz")
    again = protocol.Answer.read(tmp_path / "answer.npz")
    assert list(again.layouts) == list(layouts)
    for way, mine in layouts.items():
        for xy, other in zip(mine, again.layouts[way], strict=True):
            np.testing.assert_array_equal(xy, other)
    figures = (again.train_s, again.predict_s, again.epochs, again.epochs_asked, again.version)
    assert figures == (1.0, 2.0, 3, 4, "LUNA 4ea29c14")
    np.savez(tmp_path / "answer.npz", xy__0=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        protocol.Answer.read(tmp_path / "answer.npz")


def test_expression_is_normalised_as_scanpy_does(protocol: ModuleType) -> None:
    counts = np.array([[1, 3], [0, 2], [5, 0]], dtype=np.float32)
    part = protocol.Slice(counts, np.array([10, 4, 20], dtype=np.float32))
    expected = np.log([[2, 4], [1, 6], [3.5, 1]])  # the median size is 10
    np.testing.assert_allclose(part.logged(), expected, rtol=1e-6)
    np.testing.assert_allclose(part.logged(20.0), np.log([[3, 7], [1, 11], [6, 1]]), rtol=1e-6)
    with pytest.raises(ValueError, match="to be predicted"):
        part.positions()


def test_spacing_is_the_median_nearest_distance(protocol: ModuleType) -> None:
    xy = np.random.default_rng(0).random((700, 2))
    expected = np.median(cKDTree(xy).query(xy, 2)[0][:, 1])
    assert protocol.spacing(xy) == pytest.approx(expected)
    assert protocol.spacing(3.0 * np.indices((9, 7)).reshape(2, -1).T) == pytest.approx(3.0)


def test_epochs_follow_the_budget(protocol: ModuleType) -> None:
    assert protocol.affordable(500, 0.5, 60.0) == 120
    assert protocol.affordable(50, 0.5, 60.0) == 50
    assert protocol.affordable(500, 90.0, 60.0) == 1
    assert protocol.affordable(400, 90.0, 60.0, least=60) == 60


def test_what_is_prepared_once_is_no_part_of_an_epoch(protocol: ModuleType) -> None:
    assert protocol.epoch_seconds(lambda epochs: 8.0 + 0.25 * epochs) == pytest.approx(0.25)
    # Trials that the clock cannot tell apart do not end in a division by zero or a negative.
    assert protocol.epoch_seconds(lambda epochs: 8.0 - epochs) > 0


def test_discrepancy_is_that_of_all_differences(
    load_benchmark: Callable[[str], ModuleType],
) -> None:
    """Against kernels of explicit differences, value and gradient."""
    stem = load_benchmark("spatial/rivals/run_stem")
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 7, generator=generator, dtype=torch.float64) for n in (9, 14))
    a.requires_grad_()
    both = torch.cat([a, b + 0.4])
    squared = ((both[:, None] - both) ** 2).sum(dim=2)
    n = len(both)
    width = (squared.detach().sum() / (n * (n - 1))).item()
    kernel = torch.stack([torch.exp(-squared / (width * 2.0**i)) for i in range(-2, 3)]).sum(dim=0)
    sign = torch.cat([torch.full((m,), s / m, dtype=a.dtype) for m, s in ((9, 1), (14, -1))])
    expected = sign @ kernel @ sign
    found = stem.Discrepancy()(a, b + 0.4)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, a)[0] for value in (found, expected)), rtol=1e-9, atol=1e-12
    )


def test_the_commit_of_a_checkout(
    load_benchmark: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    sources = load_benchmark("spatial/rivals/sources")
    assert sources.commit(tmp_path) == "unknown"
