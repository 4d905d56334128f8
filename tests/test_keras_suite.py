"""Keras's own tests pass patched if they pass unpatched; and the jury can tell when they don't."""

from __future__ import annotations

from pathlib import Path

import pytest
from keras_suite import GROUPS, installed_tests, judge

FOLDER = installed_tests()
needs_tests = pytest.mark.skipif(FOLDER is None, reason="the wheel of this Keras holds no tests")


# What a group must reach at least, on the Keras versions whose wheel holds tests: (tests passed, fits through fitcore).
LEAST = {
    "trainer": (140, 140),
    "callbacks": (40, 70),
    "models": (140, 40),
    "optimizers": (200, 5),
    "distillation": (15, 5),
    "data adapters": (5, 0),
}

assert LEAST.keys() == GROUPS.keys()


# A strategy's dataset for a model under none, which PARITY.md names among what Keras runs itself.
FALL_BACK = {"test_distributed_datasets_from_function_model_integration"}


@needs_tests
@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_keras_tests(group: str) -> None:
    assert FOLDER is not None
    verdict = judge([file for pattern in GROUPS[group] for file in FOLDER.glob(pattern)])
    print(verdict.report())
    assert not verdict.regressions
    passed, fits = LEAST[group]
    assert verdict.passed >= passed
    assert verdict.calls.get("fit", 0) >= fits
    fallen_back = {test.split("::")[-1] for tests in verdict.fallbacks.values() for test in tests}
    assert fallen_back <= FALL_BACK


SOME_TESTS = """
import keras, pytest, numpy as np
from conftest import skip_if_backend

class OwnLoop(keras.Sequential):
    def make_train_function(self, force=False):
        return super().make_train_function(force)

def fitted(kind):
    model = kind([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model.fit(np.ones((2, 1)), np.ones((2, 1)), verbose=0)

def test_passes(): fitted(keras.Sequential)
def test_falls_back(): fitted(OwnLoop)
def test_passes_unpatched_only(): assert not hasattr(fitted(keras.Sequential), "account")
def test_passes_patched_only(): assert hasattr(fitted(keras.Sequential), "account")
@skip_if_backend("tensorflow", "no")
def test_is_skipped(): pass
@pytest.fixture
def breaks(): raise OSError
def test_breaks(breaks): pass
"""


def test_the_jury_tells_regressions_and_fallbacks(tmp_path: Path) -> None:
    (tmp_path / "some_test.py").write_text(SOME_TESTS)
    (tmp_path / "no_test.py").write_text("import no_such_package")
    verdict = judge([tmp_path / "some_test.py", tmp_path / "no_test.py"])
    assert verdict.regressions == ["some_test.py::test_passes_unpatched_only"]
    assert verdict.unread == ["no_test.py"]
    assert verdict.passed == 3
    not_passed = {
        "test_passes_unpatched_only": "failed",
        "test_is_skipped": "skipped",
        "test_breaks": "failed",
        "no_test.py": "unread",
    }
    assert {test.split("::")[-1]: outcome for test, outcome in verdict.patched.items() if outcome != "passed"} == not_passed
    again = not_passed | {"test_passes_unpatched_only": "passed"}
    assert {test.split("::")[-1]: outcome for test, outcome in verdict.unpatched.items()} == again
    assert verdict.calls == {"fit": 3}
    assert list(verdict.fallbacks.values()) == [["some_test.py::test_falls_back"]]
    assert "REGRESSION: some_test.py::test_passes_unpatched_only" in verdict.report()
