"""Every rule gives another verdict when the data say something else. Questions C, D and E."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from experiments import repeated_fits, report
from experiments.claims import rules_c, rules_d, rules_e
from experiments.claims.statistics import Effect, mean_of, median_ratio
from tests.test_claims import ALL, LESS, MORE, NONE, SAME, SOME, about, unsure

SETTLED = {claim.id: claim for rules in (rules_c, rules_d, rules_e) for claim in rules.CLAIMS}
EQUAL, TINY = Effect(1.0, 1.0, 1.0, 10), about(1e-6)

CALLS = {
    "same_bits_by_fitcore": ALL,
    "same_bits_by_Keras": ALL,
    "validation_loss_of_calls_to_one_call": EQUAL,
    "validation_loss_if_each_call_forgets_the_optimizer": LESS,
}
OTHER_BITS = {"same_bits_by_fitcore": NONE, "same_bits_by_Keras": NONE}
STOPPED = {
    "one_call_stopped": SOME,
    "calls_stopped_by_the_callback": NONE,
    "calls_stopped_by_a_count_that_lasts": SOME,
}
RAISED = "ValueError: Argument `learning_rate` should be float"
COMPOUND = {"as_written": RAISED, "rate_in_epoch": {49: 1e-3, 50: 1e-4, 51: 1e-5, 99: 0.0}}
ORDER = {
    "update_changed_by_order": TINY,
    "update_changed_by_order_in_float64": about(1e-15),
    "update_changed_by_other_rows": MORE,
}
REPEATS = {
    "repeats_that_differ": NONE,
    "loss_changed_by": {"initial weights": about(1e-3), "order": about(1e-4)},
    "same_in_other_processes": True,
}
SHUFFLED = {
    "weights_apart_by_shuffling": about(0.4),
    "weights_apart_by_order_in_batches": TINY,
    "loss_changed": unsure(0.0),
}
SHOWN = {"values_seen_by_calls": 80, "values_recorded_by_one_call": 580}
ONE_MORE = {
    "epochs_by_hand_less_callback": mean_of([1.0] * 10),
    "ends_in_the_same_weights": NONE,
    "validation_loss_by_hand_to_callback": MORE,
    "loss_on_fresh_data_by_hand_to_callback": MORE,
}
RANDOM = {
    "accuracy_above_one_half": unsure(0.0),
    "change_of_the_validation_loss_as_long_as_E1": unsure(0.0),
    "change_of_the_validation_loss_as_long_as_E2_may_be": unsure(0.0),
    "fresh_loss_above_validation_loss": about(0.01),
}


def training(loss):
    return {key: value for key, value in CALLS.items() if key.startswith("same")} | {"training_loss_of_calls_to_one_call": loss}


def noise(end, lowest):
    return {"validation_loss_at_the_end_by_noise": {"0.1": end}, "lowest_validation_loss_by_noise": {"0.1": lowest}}


def equal(training, held):
    runs = {"op determinism": True}
    return {"epochs_equal_while_training": training, "epochs_equal_with_weights_held": held, "runs_equal": runs}


CASES = [
    ("C-a", CALLS, "refuted"),
    ("C-a", CALLS | {"same_bits_by_Keras": NONE}, "depends"),
    ("C-a", CALLS | {"same_bits_by_fitcore": SOME}, "depends"),
    ("C-a", CALLS | OTHER_BITS | {"validation_loss_of_calls_to_one_call": LESS}, "supported"),
    ("C-a", CALLS | OTHER_BITS | {"validation_loss_of_calls_to_one_call": MORE}, "depends"),
    ("C-b", STOPPED, "depends"),
    ("C-b", STOPPED | {"calls_stopped_by_the_callback": SOME}, "supported"),
    ("C-b", STOPPED | {"calls_stopped_by_a_count_that_lasts": NONE}, "refuted"),
    ("C-b", STOPPED | {"one_call_stopped": NONE}, "not testable"),
    ("C-c", COMPOUND, "depends"),
    ("C-c", COMPOUND | {"rate_in_epoch": {49: 1e-3, 50: 1e-4, 51: 1e-5, 99: 1e-53}}, "supported"),
    ("C-c", COMPOUND | {"rate_in_epoch": {49: 1e-3, 50: 1e-4, 51: 1e-4, 99: 1e-4}}, "refuted"),
    ("C-c", COMPOUND | {"as_written": "runs as written"}, "refuted"),
    ("C-d", {"calls_to_one_call_by_Keras": MORE, "calls_to_one_call_by_fitcore": MORE}, "refuted"),
    ("C-d", {"calls_to_one_call_by_Keras": MORE, "calls_to_one_call_by_fitcore": about(1.01, 0.01)}, "depends"),
    ("C-d", {"calls_to_one_call_by_Keras": about(1.02, 0.01), "calls_to_one_call_by_fitcore": LESS}, "supported"),
    ("C-e", noise(LESS, LESS), "supported"),
    ("C-e", noise(SAME, LESS), "depends"),
    ("C-e", noise(SAME, MORE), "refuted"),
    ("D-a", equal(NONE, ALL), "depends"),
    ("D-a", equal(NONE, NONE), "supported"),
    ("D-a", equal(ALL, ALL), "refuted"),
    ("D-b", ORDER, "refuted"),
    ("D-b", ORDER | {"update_changed_by_order": about(0.2)}, "supported"),
    ("D-b", ORDER | {"update_changed_by_order": Effect(0.02, -0.01, 0.05, 10)}, "depends"),
    ("D-c", REPEATS, "refuted"),
    ("D-c", REPEATS | {"repeats_that_differ": ALL}, "supported"),
    ("D-c", REPEATS | {"repeats_that_differ": SOME}, "depends"),
    ("D-c", REPEATS | {"loss_changed_by": {"initial weights": NONE}}, "not testable"),
    ("D-d", SHUFFLED, "supported"),
    ("D-d", SHUFFLED | {"weights_apart_by_shuffling": TINY}, "refuted"),
    ("D-d", SHUFFLED | {"weights_apart_by_shuffling": Effect(0.02, -0.01, 0.05, 10)}, "depends"),
    ("E-a", training(EQUAL), "refuted"),
    ("E-a", training(EQUAL) | {"same_bits_by_Keras": NONE}, "depends"),
    ("E-a", training(LESS) | OTHER_BITS, "supported"),
    ("E-a", training(MORE) | OTHER_BITS, "depends"),
    ("E-b", SHOWN | {"values_of_calls_found_in_one_call": EQUAL}, "refuted"),
    ("E-b", SHOWN | {"values_of_calls_found_in_one_call": Effect(0.0, 0.0, 0.0, 10)}, "supported"),
    ("E-b", SHOWN | {"values_of_calls_found_in_one_call": about(0.5)}, "depends"),
    ("E-c", ONE_MORE, "refuted"),
    ("E-c", ONE_MORE | {"epochs_by_hand_less_callback": mean_of([0.0] * 10), "ends_in_the_same_weights": ALL}, "supported"),
    ("E-c", ONE_MORE | {"epochs_by_hand_less_callback": mean_of([1.0] * 9 + [0.0])}, "depends"),
    ("E-c", ONE_MORE | {"ends_in_the_same_weights": SOME}, "depends"),
    ("E-d", RANDOM, "supported"),
    ("E-d", RANDOM | {"change_of_the_validation_loss_as_long_as_E1": about(0.02)}, "depends"),
    ("E-d", RANDOM | {"change_of_the_validation_loss_as_long_as_E2_may_be": about(0.02)}, "depends"),
    ("E-d", RANDOM | {"accuracy_above_one_half": about(0.1)}, "depends"),
    (
        "E-d",
        RANDOM | {"change_of_the_validation_loss_as_long_as_E1": about(-0.2), "accuracy_above_one_half": about(0.1)},
        "refuted",
    ),
]


def test_the_verdict_follows_from_the_data():
    settled = [SETTLED[claim].settle(**measured) for claim, measured, _ in CASES]
    wrong = [(each["id"], each["because"], want) for each, (*_, want) in zip(settled, CASES) if each["verdict"] != want]
    assert wrong == []
    assert all(each["on"] for each in settled if each["verdict"] == "depends")
    assert sorted(SETTLED) == [claim for claim in report.CLAIMS if claim[0] in "CDE"]
    for id, claim in SETTLED.items():
        assert {"supported", "refuted"} <= {verdict for case, _, verdict in CASES if case == id}
        words = inspect.getdoc(claim.rule)
        assert "upported if" in words
        assert "efuted if" in words


def test_a_median_of_ratios_ignores_what_is_far_off():
    times = np.array([2.0] * 13 + [900.0, 1e-9])
    effect = median_ratio(times, np.ones(15))
    assert (effect.mean, effect.low, effect.high) == (2, 2, 2)
    random = np.random.default_rng(0)
    found = [median_ratio(row, np.ones(15)) for row in random.lognormal(0.0, 1.0, size=(2000, 15))]
    assert 0.95 < np.mean([each.low < 1 < each.high for each in found]) < 0.975  # exactly 1 - 2 P(at most 3 of 15 on one side)
    assert median_ratio([2.0, 3.0], [1.0, 1.0]).high == np.inf
    with pytest.raises(ValueError, match="same length"):
        median_ratio([1.0, 2.0], [1.0])


def test_by_hand_stops_after_more_than_patience_in_a_row(monkeypatch):
    curve = iter([3.0, 2.0, *[2.0] * 10, 1.9, *[5.0] * 50])  # ten that are no better, one that is, and then none

    class Scripted:
        most = 100

        def fit(self, seed, fit, model, epochs):
            return type("History", (), {"history": {"val_loss": [next(curve)]}})

    monkeypatch.setattr(repeated_fits, "PATIENCE", type("Flag", (), {"value": 10}))
    assert repeated_fits.by_hand(Scripted(), 0, None) == 13 + 11
