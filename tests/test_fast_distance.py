"""How far the fast tier is from the exact one, as benchmarks.fast_distance measures it."""

from __future__ import annotations

from benchmarks import fast_distance
from benchmarks.workloads import WORKLOADS


def test_steps_from_the_same_state_are_compared() -> None:
    step = fast_distance.measure(WORKLOADS["linear"], 3)["step"]
    assert all(0 < step[plan] < fast_distance.STEP for plan in fast_distance.PLANS)
    assert step["nudged"] > 0
