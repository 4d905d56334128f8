"""Every rule gives another verdict when the data say something else. Questions A and B."""

from __future__ import annotations

import inspect

from experiments import report
from experiments.claims import rules_a, rules_b
from experiments.claims.statistics import Effect

SETTLED = {claim.id: claim for rules in (rules_a, rules_b) for claim in rules.CLAIMS}


def about(mean: float, spread: float = 0.05) -> Effect:
    """An effect whose interval reaches `spread` of its mean to both sides."""
    half = spread * abs(mean)
    return Effect(mean, mean - half, mean + half, 10)


def unsure(center: float) -> Effect:
    return Effect(center, center - 1, center + 1, 10)


MORE, LESS, SAME, UNSURE = about(1.5), about(0.5), about(1.0, 0.005), unsure(1.0)
NONE, ALL, SOME = Effect(0.0, 0.0, 0.31, 10), Effect(1.0, 0.69, 1.0, 10), Effect(0.5, 0.19, 0.81, 10)

PASSES = {
    "accuracy_gained_A2": about(0.05),
    "distance_left_A1": LESS,
    "error_left_A3": LESS,
    "test_loss_later_A2": LESS,
    "one_pass_over_ten_times_the_digits_A2": about(0.04),
}
NOISE = {
    "fallen_by_at_the_start": about(-0.5),
    "fallen_by_after_training": about(-0.5),
    "noise_in_one_update_at_the_start": about(0.7),
    "noise_in_one_update_after_training": about(0.9),
    "noise_in_an_epoch_at_the_start": about(0.1),
    "noise_in_an_epoch_after_training": about(0.2),
}
BARRIERS = {
    "runs_with_a_barrier_A1": NONE,
    "runs_with_a_barrier_A2": NONE,
    "runs_with_a_barrier_A3": NONE,
    "barrier_A2": about(0.1),
}
LATE = {
    "test_loss_by_dropout_after_one_epoch": SAME,
    "test_loss_by_dropout_later": LESS,
    "test_error_by_L2_after_one_epoch": SAME,
    "test_error_by_L2_later": UNSURE,
    "kernel_norm_by_L2_after_one_epoch": Effect(0.997, 0.996, 0.998, 10),  # certain, but less than 1 %: doesn't show
    "kernel_norm_by_L2_later": LESS,
}
RATES = {
    "loss_by_the_smallest_rate": MORE,
    "runs_that_oscillate_or_diverge_at_the_largest_rate": ALL,
    "runs_that_oscillate_or_diverge_at_the_best_rate": NONE,
    "loss_by_the_largest_rate": MORE,
    "loss_at_the_end_of_the_largest_rate": MORE,
}
ADAM = {
    "loss_of_Adam_as_written": LESS,
    "loss_of_Adam_tuned": LESS,
    "loss_of_Adam_in_noise": LESS,
    "loss_by_noise_Adam_over_SGD": LESS,
    "loss_by_noise_SGD": MORE,
    "loss_by_noise_Adam": MORE,
}
DECAY = {"distance_left_of_the_line": LESS, "loss_of_digits_as_written": LESS, "loss_of_digits_later": LESS}

CASES = [
    ("A-a", PASSES, "supported"),
    ("A-a", PASSES | {"test_loss_later_A2": MORE}, "depends"),  # it overfits later
    ("A-a", PASSES | {"error_left_A3": SAME}, "depends"),
    ("A-a", PASSES | {"error_left_A3": UNSURE}, "not testable"),
    ("A-a", PASSES | {"accuracy_gained_A2": about(0.001), "distance_left_A1": MORE, "error_left_A3": SAME}, "refuted"),
    ("A-b", NOISE, "supported"),
    ("A-b", NOISE | {"noise_in_an_epoch_after_training": about(0.6)}, "depends"),
    ("A-b", NOISE | {"noise_in_an_epoch_after_training": unsure(0.5)}, "not testable"),
    ("A-b", NOISE | {"fallen_by_at_the_start": about(0.1), "fallen_by_after_training": about(0.1)}, "refuted"),
    (
        "A-b",
        NOISE | {"noise_in_one_update_at_the_start": about(0.01), "noise_in_one_update_after_training": about(0.02)},
        "not testable",
    ),
    ("A-c", BARRIERS, "refuted"),
    ("A-c", BARRIERS | {"runs_with_a_barrier_A2": ALL}, "depends"),
    ("A-c", BARRIERS | {"runs_with_a_barrier_A2": SOME}, "not testable"),
    ("A-c", dict.fromkeys(BARRIERS, ALL), "supported"),
    ("A-d", LATE, "supported"),
    ("A-d", LATE | {"test_loss_by_dropout_after_one_epoch": MORE}, "depends"),
    ("A-d", LATE | {"test_error_by_L2_later": SAME, "kernel_norm_by_L2_later": SAME}, "depends"),
    ("A-d", LATE | {"test_loss_by_dropout_after_one_epoch": MORE, "kernel_norm_by_L2_after_one_epoch": LESS}, "refuted"),
    ("A-d", LATE | {"test_loss_by_dropout_later": UNSURE}, "not testable"),
    ("A-e", {"updates_in_one_epoch": {"A1": 4, "A2": 125}}, "refuted"),
    ("A-e", {"updates_in_one_epoch": {"A1": 1, "A2": 125}}, "depends"),
    ("A-e", {"updates_in_one_epoch": {"A1": 1, "A2": 1}}, "supported"),
    ("B-a", RATES, "supported"),
    ("B-a", RATES | {"loss_by_the_smallest_rate": SAME}, "depends"),
    ("B-a", RATES | {"loss_by_the_smallest_rate": UNSURE}, "not testable"),
    ("B-a", RATES | {"runs_that_oscillate_or_diverge_at_the_best_rate": ALL}, "depends"),  # they do whatever the rate
    (
        "B-a",
        RATES | {"loss_by_the_smallest_rate": SAME, "runs_that_oscillate_or_diverge_at_the_largest_rate": NONE},
        "refuted",
    ),
    ("B-b", ADAM, "supported"),
    ("B-b", ADAM | {"loss_of_Adam_tuned": SAME}, "depends"),
    ("B-b", ADAM | {"loss_by_noise_Adam_over_SGD": MORE}, "depends"),
    ("B-b", ADAM | {"loss_by_noise_Adam_over_SGD": UNSURE}, "not testable"),
    ("B-b", dict.fromkeys(ADAM, MORE), "refuted"),
    ("B-c", DECAY, "supported"),
    ("B-c", DECAY | {"loss_of_digits_later": SAME}, "depends"),
    ("B-c", DECAY | {"distance_left_of_the_line": UNSURE}, "not testable"),
    ("B-c", dict.fromkeys(DECAY, MORE), "refuted"),
    ("B-d", {"examples_in_an_update": {"fewest": 32, "most": 32}}, "refuted"),
    ("B-d", {"examples_in_an_update": {"fewest": 1, "most": 32}}, "depends"),
    ("B-d", {"examples_in_an_update": {"fewest": 1, "most": 1}}, "supported"),
]


def test_the_verdict_follows_from_the_data():
    settled = [SETTLED[claim].settle(**measured) for claim, measured, _ in CASES]  # one test: Keras is reset for each
    wrong = [(each["id"], each["because"], want) for each, (*_, want) in zip(settled, CASES) if each["verdict"] != want]
    assert wrong == []
    assert all(each["on"] for each in settled if each["verdict"] == "depends")


def test_every_claim_can_go_either_way():
    assert sorted(SETTLED) == [claim for claim in report.CLAIMS if claim[0] in "AB"]
    for id in SETTLED:
        assert {"supported", "refuted"} <= {verdict for claim, _, verdict in CASES if claim == id}


def test_every_rule_says_in_words_what_it_does():
    for claim in SETTLED.values():
        words = " ".join(inspect.getdoc(claim.rule).split())
        assert "upported if" in words
        assert "efuted if" in words
