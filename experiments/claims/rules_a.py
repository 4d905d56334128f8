"""The claims of question A, and the rules that settle them."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.claims.statistics import Effect
from experiments.claims.verdicts import (
    DEPENDS,
    NOT_TESTABLE,
    Claim,
    Truth,
    Verdict,
    both,
    either,
    less_than,
    more_than,
    opposite,
    verdict_of,
)


def more_passes(
    accuracy_gained_A2: Effect,
    distance_left_A1: Effect,
    error_left_A3: Effect,
    test_loss_later_A2: Effect,
    one_pass_over_ten_times_the_digits_A2: Effect,
) -> Verdict:
    """More epochs improve an example if on data not trained on they gain more than half a point of accuracy (A2), or leave less
    than 0.95 of the distance (A1) or of the error (A3). Supported if they improve all three, refuted if none; depends if only
    some, or if all but A2's test loss grows again in the epochs that follow; not testable if intervals are too wide to say.
    What one pass over ten times the digits gains over ten passes, at as many updates, is shown beside it."""
    holds = {
        "in A1": less_than(distance_left_A1, 0.95),
        "in A2": more_than(accuracy_gained_A2, 0.005),
        "in A3": less_than(error_left_A3, 0.95),
    }
    figures = (
        f"A1: distance left {distance_left_A1}, A2: accuracy gained {accuracy_gained_A2}, later test loss "
        f"{test_loss_later_A2}, A3: error left {error_left_A3}; one pass over ten times the digits against ten passes, "
        f"accuracy: {one_pass_over_ten_times_the_digits_A2}"
    )
    if all(holds.values()) and more_than(test_loss_later_A2, 1.0):
        return Verdict(DEPENDS, figures, on="how many: all three examples improve, but A2 overfits later")
    return verdict_of(holds, figures)


def noise_averages_out(
    fallen_by_at_the_start: Effect,
    fallen_by_after_training: Effect,
    noise_in_one_update_at_the_start: Effect,
    noise_in_one_update_after_training: Effect,
    noise_in_an_epoch_at_the_start: Effect,
    noise_in_an_epoch_after_training: Effect,
) -> Verdict:
    """The share of noise in a displacement is its variance over orders of the data, over its mean square. It averages out
    where that share falls from one update to one epoch of updates (below 0) and ends below one half, so that the
    displacement is mostly signal. Supported if it does both at the start and after training; depends if at one of them; refuted
    if at neither; not testable if single updates hold less than a tenth of noise at both, so that there is none to average out,
    or if intervals are too wide to say."""
    if max(noise_in_one_update_at_the_start.high, noise_in_one_update_after_training.high) < 0.1:
        return Verdict(NOT_TESTABLE, "single updates hold hardly any noise here")
    holds = {
        "at the start": both(less_than(fallen_by_at_the_start, 0), less_than(noise_in_an_epoch_at_the_start, 0.5)),
        "after training": both(less_than(fallen_by_after_training, 0), less_than(noise_in_an_epoch_after_training, 0.5)),
    }
    figures = (
        f"noise in one update and in an epoch's displacement: {noise_in_one_update_at_the_start} and "
        f"{noise_in_an_epoch_at_the_start} at the start, {noise_in_one_update_after_training} and "
        f"{noise_in_an_epoch_after_training} after training"
    )
    return verdict_of(holds, figures)


def escapes_minima(
    runs_with_a_barrier_A1: Effect, runs_with_a_barrier_A2: Effect, runs_with_a_barrier_A3: Effect, barrier_A2: Effect
) -> Verdict:
    """A barrier is a training loss on the straight line from the weights after one epoch to the last ones that exceeds that
    after one epoch by more than 0.1 %. Where there is none, the loss falls from the former to the latter without any way up:
    the former were in no minimum, and none was escaped. Supported if in all examples there are barriers in more than half of
    the runs, refuted if in all in less than half, depends if the examples differ; not testable if intervals are too wide."""
    shares = {"in A1": runs_with_a_barrier_A1, "in A2": runs_with_a_barrier_A2, "in A3": runs_with_a_barrier_A3}
    figures = ", ".join(f"{effect} {name}" for name, effect in shares.items())
    return verdict_of(
        {name: more_than(effect, 0.5) for name, effect in shares.items()},
        f"runs with a way up between where one epoch ends and where training ends: {figures} (A2: by {barrier_A2})",
    )


def shows_late(
    test_loss_by_dropout_after_one_epoch: Effect,
    test_loss_by_dropout_later: Effect,
    test_error_by_L2_after_one_epoch: Effect,
    test_error_by_L2_later: Effect,
    kernel_norm_by_L2_after_one_epoch: Effect,
    kernel_norm_by_L2_later: Effect,
) -> Verdict:
    """Each effect is the factor by which something differs with the regularizer from what it is without it. An effect shows
    where its interval excludes 1 and its mean is off by 1 % or more, and doesn't where its interval is within 1 % of 1; a
    regularizer shows where one of its effects does. Supported if both regularizers show later and not after one epoch; refuted
    if neither does so; depends if one; not testable if intervals are too wide to say."""

    def shows(effect: Effect) -> Truth:
        if (effect.low > 1 or effect.high < 1) and abs(effect.mean - 1) >= 0.01:
            return True
        return False if effect.low > 0.99 and effect.high < 1.01 else None

    l2_first = either(shows(test_error_by_L2_after_one_epoch), shows(kernel_norm_by_L2_after_one_epoch))
    l2_later = either(shows(test_error_by_L2_later), shows(kernel_norm_by_L2_later))
    holds = {
        "for dropout": both(
            opposite(shows(test_loss_by_dropout_after_one_epoch)),
            shows(test_loss_by_dropout_later),
        ),
        "for L2": both(opposite(l2_first), l2_later),
    }
    figures = (
        f"after one epoch and later, dropout makes the test loss {test_loss_by_dropout_after_one_epoch} and "
        f"{test_loss_by_dropout_later}, L2 its kernel's norm {kernel_norm_by_L2_after_one_epoch} and "
        f"{kernel_norm_by_L2_later} and the test error {test_error_by_L2_after_one_epoch} and {test_error_by_L2_later}"
    )
    return verdict_of(holds, figures)


def one_update(updates_in_one_epoch: Mapping[str, int]) -> Verdict:
    """Supported if one epoch is one update in every example, refuted if in none, depends if in some; counted by the
    optimizer."""
    counted = ", ".join(f"{name} {count}" for name, count in updates_in_one_epoch.items())
    return verdict_of(
        {f"in {name}": count == 1 for name, count in updates_in_one_epoch.items()}, f"updates in one epoch: {counted}"
    )


CLAIMS = (
    Claim("A-a", "One pass is suboptimal, more passes generalise better", more_passes),
    Claim("A-b", "Mini-batch gradients are noisy, and successive updates average the noise out", noise_averages_out),
    Claim("A-c", "Successive training escapes local minima", escapes_minima),
    Claim("A-d", "Dropout's and L2's effect shows only after several epochs", shows_late),
    Claim("A-e", 'One "iteration" is one update', one_update),
)
