"""What the questions' experiments share: statistics, verdicts, fresh starts, findings, the report."""

import json

import keras
import numpy as np
import pytest

import fitcore
from experiments import report
from experiments.claims import data, statistics, verdicts
from experiments.claims.restart import Restarts
from fitcore.command_line import launch


def test_intervals():
    effect = statistics.paired([3.0, 5.0, 4.0, 6.0], [1.0, 2.0, 3.0, 4.0])  # differences 2, 3, 1, 2
    assert effect.mean == 2
    assert effect.high - 2 == pytest.approx(3.1824 * np.sqrt(2 / 3) / 2, rel=3e-3)  # t(0.975, 3)
    assert statistics.mean_of([1.0]).high == np.inf
    ratio = statistics.paired_ratio([2.0, 8.0], [1.0, 1.0])
    assert ratio.mean == pytest.approx(4)
    assert ratio.low * ratio.high == pytest.approx(16)
    none = statistics.share([False] * 10)
    assert (none.low, none.high) == (0, pytest.approx(0.3085, abs=1e-4))  # 1 - 0.025^(1/10)
    some = statistics.share([True] * 3 + [False] * 7)
    assert (some.low, some.high) == (pytest.approx(0.0667, abs=1e-4), pytest.approx(0.6525, abs=1e-4))
    assert statistics.sign_test([1, 1, 1, 1, 1, 0]) == pytest.approx(2 / 32)
    assert statistics.sign_test([1, -1]) == 1


def test_an_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(0)
    effects = [statistics.mean_of(row) for row in random.normal(1.0, 2.0, size=(2000, 10))]
    assert np.mean([e.low < 1 < e.high for e in effects]) == pytest.approx(0.95, abs=0.015)


def test_unpaired_lists_are_refused():
    with pytest.raises(ValueError, match="same length"):
        statistics.paired([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="positive"):
        statistics.paired_ratio([1.0, 0.0], [1.0, 1.0])


def test_a_claim_is_settled_by_its_rule():
    def rule(gain: statistics.Effect) -> verdicts.Verdict:
        """Supported if the gain is positive."""
        return verdicts.Verdict(verdicts.SUPPORTED if verdicts.more_than(gain) else verdicts.REFUTED, f"{gain}")

    claim = verdicts.Claim("A-a", "it gains", rule)
    settled = claim.settle(gain=statistics.mean_of([1.0, 1.1, 0.9]))
    assert (settled["verdict"], settled["rule"]) == ("supported", "Supported if the gain is positive.")
    assert json.loads(json.dumps(settled)) == json.loads(json.dumps(settled | {"id": "A-a"}))
    assert claim.settle(gain=statistics.mean_of([-1.0, -1.1, -0.9]))["verdict"] == "refuted"
    with pytest.raises(ValueError, match="four verdicts"):
        verdicts.Verdict("probably", "")
    spread = statistics.mean_of([-1.0, 1.2])
    assert verdicts.more_than(spread) is None


def test_a_restarted_model_trains_as_one_built_anew():
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    y = x[:, :3].argmax(axis=1)

    def build():
        body = [keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(3, "softmax")]
        model = keras.Sequential([keras.Input((4,)), *body])
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        return model

    restarts, ends, engines = Restarts(build), [], []
    for seed in (1, 2, 1, None):
        model = restarts.start(seed) if seed else restarts.again()
        fitcore.fit(model, x, y, epochs=2, batch_size=16, verbose=0)
        ends.append(launch.weights_sha256(model))
        engines.append(fitcore.Engine.of_compiled(model).traces)
    assert ends[0] == ends[2] == ends[3] != ends[1]
    assert engines == [1, 1, 1, 1]
    keras.utils.set_random_seed(2)
    fresh = build()
    fitcore.fit(fresh, x, y, epochs=2, batch_size=16, verbose=0)
    assert launch.weights_sha256(fresh) == ends[1]


def test_data_are_real_and_say_so():
    digits = data.digits()
    assert digits.x.shape == (4000, 28, 28)
    assert digits.x_test.shape == (1000, 28, 28)
    assert "4,000 real MNIST digits" in digits.about
    few = data.digits(rows=10)
    np.testing.assert_array_equal(few.y, digits.y[:8])
    np.testing.assert_array_equal(few.x_test, digits.x_test[:2])
    for series in (data.sunspots(), data.co2()):
        assert series.x.shape[1:] == (12, 1)
        np.testing.assert_array_equal(series.x[1:, -1, 0], series.y[:-1, 0])  # the window ends where its target begins
        assert "statsmodels" in series.about
    assert np.isfinite(data.co2().x).all()


def test_full_mnist_is_read_where_it_is_named(tmp_path):
    path = tmp_path / "mnist.npz"
    images, labels = np.full((3, 28, 28), 255, "uint8"), np.array([1, 2, 3], "uint8")
    np.savez(path, x_train=images, y_train=labels, x_test=images[:1], y_test=labels[:1])
    digits = data.digits(str(path))
    assert (digits.x.max(), len(digits.x), len(digits.x_test), str(path) in digits.about) == (1, 3, 1, True)
    with pytest.raises(SystemExit, match="--mnist="):
        data.digits(str(tmp_path / "none.npz"))


def test_times_are_no_part_of_what_is_compared():
    def result(seconds, number, effect):
        timed = {"id": "A-a", "timed": True, "verdict": "refuted", "because": str(seconds), "measurements": {"s": seconds}}
        other = {"id": "A-b", "timed": False, "verdict": "refuted", "because": "", "measurements": {"effect": effect}}
        return {"A": {"seconds": {"all": seconds}, "examples": [number], "claims": [timed, other]}}

    digest = report.numbers_sha256(result(1.0, 2, 3.0))
    assert digest == report.numbers_sha256(result(9.0, 2, 3.0))
    assert digest != report.numbers_sha256(result(1.0, 3, 3.0))
    assert digest != report.numbers_sha256(result(1.0, 2, np.nextafter(3.0, 4)))
