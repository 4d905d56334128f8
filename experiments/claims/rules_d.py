"""The claims of question D, and the rules that settle them."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.claims.statistics import Effect
from experiments.claims.verdicts import DEPENDS, NOT_TESTABLE, REFUTED, SUPPORTED, Claim, Verdict

SIGNIFICANT = 0.01  # of the update, or of the way travelled


def equal_unattainable(
    epochs_equal_while_training: Effect, epochs_equal_with_weights_held: Effect, runs_equal: Mapping[str, bool]
) -> Verdict:
    """Shares of runs in which the losses and accuracies of all batches are the same bits in each epoch: while training, and
    with the weights held by a rate of 0. Supported if they are in no run of either, refuted if in every run of both, depends
    otherwise. Beside it: whether another process gives the same bits, with and without op determinism."""
    across = ", ".join(f"{name} {'yes' if same else 'no'}" for name, same in runs_equal.items())
    figures = (
        f"equal in each epoch: {epochs_equal_while_training} while training, {epochs_equal_with_weights_held} with the weights "
        f"held; equal across runs: {across}"
    )
    if epochs_equal_while_training.mean == epochs_equal_with_weights_held.mean == 0:
        return Verdict(SUPPORTED, figures)
    if epochs_equal_while_training.mean == epochs_equal_with_weights_held.mean == 1:
        return Verdict(REFUTED, figures)
    return Verdict(DEPENDS, figures, on="whether the weights move")


def order_in_batch(
    update_changed_by_order: Effect, update_changed_by_order_in_float64: Effect, update_changed_by_other_rows: Effect
) -> Verdict:
    """How much of an update (norm of the difference over the update's norm) changes if the rows of its batch are permuted.
    Significant is 1 %. Supported if the interval lies above, refuted if it lies below, depends otherwise. Beside it: the same
    in float64, which tells rounding from anything else, and what a batch of other rows changes."""
    figures = (
        f"of an update, another order of its rows changes {update_changed_by_order} (in float64 "
        f"{update_changed_by_order_in_float64}), other rows {update_changed_by_other_rows}"
    )
    if update_changed_by_order.low > SIGNIFICANT:
        return Verdict(SUPPORTED, figures)
    if update_changed_by_order.high <= SIGNIFICANT:
        return Verdict(REFUTED, figures)
    return Verdict(DEPENDS, figures, on="the batch")


def optimizer_stochastic(
    repeats_that_differ: Effect, loss_changed_by: Mapping[str, Effect], same_in_other_processes: bool
) -> Verdict:
    """Repeats of a whole training from the same weights, on the same batches: what is random in them could come from the
    optimizer only. Supported if every repeat ends in other bits, refuted if none does, depends otherwise. Not testable if
    nothing else that may vary between runs (initial weights, order, dropout's masks) changes the loss either. Beside it:
    whether D3, with only Python's and NumPy's seeds set, ends in the same bits in other processes."""
    sources = ", ".join(f"{name} {effect}" for name, effect in loss_changed_by.items())
    figures = (
        f"repeats that differ: {repeats_that_differ}; D3 ends in the same bits in other processes: "
        f"{'yes' if same_in_other_processes else 'no'}; change of the loss by what varies: {sources}"
    )
    if all(effect.mean == 0 for effect in loss_changed_by.values()) and repeats_that_differ.mean == 0:
        return Verdict(NOT_TESTABLE, f"nothing varies; {figures}")
    if repeats_that_differ.mean == 1:
        return Verdict(SUPPORTED, figures)
    if repeats_that_differ.mean == 0:
        return Verdict(REFUTED, figures)
    return Verdict(DEPENDS, figures, on="the run")


def shuffling_matters(
    weights_apart_by_shuffling: Effect, weights_apart_by_order_in_batches: Effect, loss_changed: Effect
) -> Verdict:
    """How far apart shuffle=True and shuffle=False end, from the same weights, over the way travelled. Significant is 1 %.
    Supported if the interval lies above, refuted if it lies below, depends otherwise. Beside it: shuffle="batch", which
    permutes rows inside batches only, and what shuffling changes of the final loss (paired by seed)."""
    figures = (
        f"apart over the way travelled: {weights_apart_by_shuffling}, by order inside batches "
        f"{weights_apart_by_order_in_batches}; final loss changed by {loss_changed}"
    )
    if weights_apart_by_shuffling.low > SIGNIFICANT:
        return Verdict(SUPPORTED, figures)
    if weights_apart_by_shuffling.high <= SIGNIFICANT:
        return Verdict(REFUTED, figures)
    return Verdict(DEPENDS, figures, on="the run")


CLAIMS = (
    Claim("D-a", "Equal loss and accuracy in each epoch are unattainable", equal_unattainable),
    Claim("D-b", "The order of data within a batch changes the update significantly", order_in_batch),
    Claim("D-c", "Variability remains after seeding, because of the optimizer's stochasticity", optimizer_stochastic),
    Claim("D-d", "Shuffling changes the trajectory", shuffling_matters),
)
