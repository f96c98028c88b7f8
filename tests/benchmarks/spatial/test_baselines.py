"""The benchmark of simple rivals."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from spatial_ipa.evaluation.scorer import SCORES


def test_every_score_has_a_column(load_benchmark: Callable[[str], ModuleType]) -> None:
    """Also one that is added to the scorer; a given layout took no seconds."""
    show = load_benchmark("spatial/baselines").show
    scores = dict.fromkeys(SCORES, 0.25)
    head, _, rival, given = show({"svr": scores | {"seconds": 2.0}, "file": scores}).splitlines()
    assert head == f"| method | {' | '.join(SCORES)} | seconds |"
    assert rival == f"| svr | {'0.250 | ' * len(SCORES)}2.000 |"
    assert given == f"| file | {'0.250 | ' * len(SCORES)} |"
