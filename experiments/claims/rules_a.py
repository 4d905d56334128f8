"""The claims of question A, and the rules that settle them."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.claims.statistics import Effect
from experiments.claims.verdicts import DEPENDS, NOT_TESTABLE, REFUTED, SUPPORTED, Claim, Verdict, more_than


def more_passes(
    accuracy_gained_A2: Effect,
    distance_left_A1: Effect,
    error_left_A3: Effect,
    test_loss_later_A2: Effect,
    one_pass_over_ten_times_the_digits_A2: Effect,
) -> Verdict:
    """Supported if more epochs improve all three examples on data not trained on (A2: accuracy gained above 0; A1, A3: the
    factor of what is left below 1) and A2's test loss does not grow in the epochs after those; refuted if they improve none;
    depends otherwise. What one pass over ten times the digits gains over ten passes, at as many updates, is shown beside it."""
    improves = {
        "A1": distance_left_A1.high < 1,
        "A2": bool(more_than(accuracy_gained_A2)),
        "A3": error_left_A3.high < 1,
    }
    better = [name for name, does in improves.items() if does]
    data = f"one pass over ten times the digits against ten passes, accuracy: {one_pass_over_ten_times_the_digits_A2}"
    if not better:
        return Verdict(REFUTED, f"more epochs improve none of the examples; {data}")
    if len(better) < len(improves):
        return Verdict(DEPENDS, f"more epochs improve {', '.join(better)} only; {data}", on="the example")
    if more_than(test_loss_later_A2, 1.0):
        what = f"all three examples improve, but A2's test loss grows again later, {test_loss_later_A2}"
        return Verdict(DEPENDS, f"{what}; {data}", on="how many: after enough it overfits")
    return Verdict(SUPPORTED, f"all three examples improve; {data}")


def noise_averages_out(
    fallen_by_at_the_start: Effect,
    fallen_by_after_training: Effect,
    noise_in_one_update_at_the_start: Effect,
    noise_in_one_update_after_training: Effect,
    noise_in_an_epoch_at_the_start: Effect,
    noise_in_an_epoch_after_training: Effect,
) -> Verdict:
    """The share of noise in a displacement is its variance over orders of the data, over its mean square. It averages out
    where that share falls from one update to one epoch of updates (interval below 0) and ends below one half, so that the
    displacement is mostly signal. Supported if it does at the start and after training; depends if at one of them; refuted if
    at neither; not testable if single updates hold less than a tenth of noise at both, so that there is none to average out."""
    if max(noise_in_one_update_at_the_start.high, noise_in_one_update_after_training.high) < 0.1:
        return Verdict(NOT_TESTABLE, "single updates hold hardly any noise here")
    start = fallen_by_at_the_start.high < 0 and noise_in_an_epoch_at_the_start.high < 0.5
    late = fallen_by_after_training.high < 0 and noise_in_an_epoch_after_training.high < 0.5
    figures = (
        f"noise in one update and in an epoch's displacement: {noise_in_one_update_at_the_start} and "
        f"{noise_in_an_epoch_at_the_start} at the start, {noise_in_one_update_after_training} and "
        f"{noise_in_an_epoch_after_training} after training"
    )
    if start and late:
        return Verdict(SUPPORTED, figures)
    if start or late:
        where = "at the start" if start else "after training"
        return Verdict(DEPENDS, figures, on=f"how far training is: it does {where} only")
    return Verdict(REFUTED, figures)


def escapes_minima(
    runs_with_a_barrier_A1: Effect, runs_with_a_barrier_A2: Effect, runs_with_a_barrier_A3: Effect, barrier_A2: Effect
) -> Verdict:
    """A barrier is a training loss on the straight line from the weights after one epoch to the last ones that exceeds that
    after one epoch by more than 0.1 %. Where there is none, the loss falls from the former to the latter without any way up:
    the former were in no minimum, and none was escaped. Refuted if in all examples barriers are in less than half of the runs
    (interval), supported if in all they are in more than half, depends otherwise."""
    shares = {"A1": runs_with_a_barrier_A1, "A2": runs_with_a_barrier_A2, "A3": runs_with_a_barrier_A3}
    figures = ", ".join(f"{name} {effect}" for name, effect in shares.items())
    if all(effect.high < 0.5 for effect in shares.values()):
        return Verdict(REFUTED, f"it goes downhill all the way from where one epoch ends; runs with a barrier: {figures}")
    if all(effect.low > 0.5 for effect in shares.values()):
        return Verdict(SUPPORTED, f"runs with a barrier: {figures}, of {barrier_A2} of the loss in A2")
    return Verdict(DEPENDS, f"runs with a barrier: {figures}", on="the example")


def shows_late(
    test_loss_by_dropout_after_one_epoch: Effect,
    test_loss_by_dropout_later: Effect,
    test_error_by_L2_after_one_epoch: Effect,
    test_error_by_L2_later: Effect,
    kernel_norm_by_L2_after_one_epoch: Effect,
    kernel_norm_by_L2_later: Effect,
) -> Verdict:
    """Each effect is the factor by which something differs with the regularizer from what it is without it. An effect shows
    where its interval excludes 1 and its mean is off by 1 % or more; a regularizer shows where one of its effects does.
    Supported if both regularizers show later and not after one epoch; refuted if both show after one epoch already; not
    testable if neither ever shows; depends otherwise."""

    def shows(*effects: Effect) -> bool:
        return any((effect.low > 1 or effect.high < 1) and abs(effect.mean - 1) >= 0.01 for effect in effects)

    def when(first: bool, later: bool) -> str:
        return "from the first epoch on" if first else "only later" if later else "never"

    dropout = when(shows(test_loss_by_dropout_after_one_epoch), shows(test_loss_by_dropout_later))
    l2 = when(
        shows(test_error_by_L2_after_one_epoch, kernel_norm_by_L2_after_one_epoch),
        shows(test_error_by_L2_later, kernel_norm_by_L2_later),
    )
    figures = (
        f"dropout shows {dropout} (test loss {test_loss_by_dropout_after_one_epoch}, then {test_loss_by_dropout_later}), "
        f"L2 {l2} (its kernel's norm {kernel_norm_by_L2_after_one_epoch}, then {kernel_norm_by_L2_later}; "
        f"test error {test_error_by_L2_after_one_epoch}, then {test_error_by_L2_later})"
    )
    if dropout != l2:
        return Verdict(DEPENDS, figures, on=f"the regularizer: dropout shows {dropout}, L2 {l2}")
    word = {"only later": SUPPORTED, "from the first epoch on": REFUTED, "never": NOT_TESTABLE}[dropout]
    return Verdict(word, figures)


def one_update(updates_in_one_epoch: Mapping[str, int]) -> Verdict:
    """Supported if one epoch is one update in every example, refuted if in none, depends otherwise; counted by the
    optimizer."""
    counted = ", ".join(f"{name} {count}" for name, count in updates_in_one_epoch.items())
    single = [name for name, count in updates_in_one_epoch.items() if count == 1]
    if len(single) == len(updates_in_one_epoch):
        return Verdict(SUPPORTED, f"updates in one epoch: {counted}")
    if single:
        return Verdict(DEPENDS, f"updates in one epoch: {counted}", on="the batch size")
    return Verdict(REFUTED, f"updates in one epoch: {counted}")


CLAIMS = (
    Claim("A-a", "One pass is suboptimal, more passes generalise better", more_passes),
    Claim("A-b", "Mini-batch gradients are noisy, and successive updates average the noise out", noise_averages_out),
    Claim("A-c", "Successive training escapes local minima", escapes_minima),
    Claim("A-d", "Dropout's and L2's effect shows only after several epochs", shows_late),
    Claim("A-e", 'One "iteration" is one update', one_update),
)
