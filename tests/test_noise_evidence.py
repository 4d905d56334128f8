"""The evidence-based stopping criterion, recorded beside the training."""

import keras
import numpy as np
import pytest

import fitcore
from benchmarks.noise_accuracy import evidence_error, evidence_of_normal
from benchmarks.noise_cases import NOISE_CASES
from fitcore.noise import GradientNoise, examples
from tests import models
from tests.test_noise import folded, measured, trained


@pytest.mark.parametrize("name", ["dense", "dense_time_gram", "embedding", "regularized"])
def test_agrees_with_one_backward_pass_per_example(name):
    keras.config.set_floatx("float64")
    assert evidence_error(NOISE_CASES[name]) < 1e-6


def test_also_in_chunks_of_rows(monkeypatch):
    monkeypatch.setattr(examples, "CHUNK_BYTES", 100)
    keras.config.set_floatx("float64")
    assert evidence_error(NOISE_CASES["conv2d"]) < 1e-6


def test_its_mean_is_zero_under_pure_noise_and_what_the_signal_makes_it_otherwise():
    for signal in (0.0, 0.5):  # uncorrected, the mean would be 0.4 and 1.2 lower
        found, expected = evidence_of_normal(signal, n=8, batches=1000)
        assert abs(found.mean() - expected) < 4 * found.std() / np.sqrt(len(found))
        assert found.std() / np.sqrt(len(found)) < 0.05


def test_it_is_a_column_with_an_entry_per_step_that_changes_nothing_else():
    noise = measured(models.linear, GradientNoise(evidence=True, hessian_every=3, every=2), epochs=2)
    whole = trained(models.linear, GradientNoise(every=2), epochs=2)[1]
    assert whole.evidence is None
    np.testing.assert_array_equal(noise.trace, whole.trace)
    assert noise.evidence.shape == (4,)
    assert np.isfinite(noise.evidence).all()
    column = noise.per_step(0, 8)["noise/evidence"]
    np.testing.assert_array_equal(column[::2], noise.evidence)
    assert np.isnan(column[1::2]).all()
    assert "noise/evidence" not in whole.per_step(0, 8)


def test_where_it_is_undefined():
    x, y = models.data(11)
    few = measured(models.linear, GradientNoise(evidence=True), x=x, y=y, batch_size=4, shuffle=False)
    assert np.isnan(few.evidence).tolist() == [False, False, True]  # a batch of three rows has no mean to correct to
    noise = GradientNoise("auto", splits=2, evidence=True)
    assert np.isnan(measured(folded, noise, x=x, y=y, batch_size=4).evidence).all()  # rows taken for examples: not stated
    with pytest.raises(ValueError, match="`evidence=True` needs each example's gradient"):
        GradientNoise("split", evidence=True)
    assert "noise/evidence" in fitcore.fit(models.linear(), x, y, verbose=0, noise=GradientNoise(evidence=True)).steps
