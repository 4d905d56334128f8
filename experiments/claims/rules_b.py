"""The claims of question B, and the rules that settle them."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.claims.statistics import Effect
from experiments.claims.verdicts import DEPENDS, REFUTED, SUPPORTED, Claim, Verdict, both, less_than, more_than, verdict_of


def rates_too_large_or_small(
    loss_by_the_smallest_rate: Effect,
    runs_that_oscillate_or_diverge_at_the_largest_rate: Effect,
    runs_that_oscillate_or_diverge_at_the_best_rate: Effect,
    loss_by_the_largest_rate: Effect,
    loss_at_the_end_of_the_largest_rate: Effect,
) -> Verdict:
    """Losses are training losses after all epochs, as factors of that of the sweep's best rate. A run oscillates if its loss
    rises in a third of the epochs or more, and diverges if it ends above ln 10, where guessing is, or not finite. Supported if
    the smallest rate is slow (factor above 1.05), and at the largest rate more than half of the runs oscillate or diverge, and
    fewer than half at the best; refuted if neither; depends if one; not testable if intervals are too wide to say."""
    holds = {
        "for small rates": more_than(loss_by_the_smallest_rate, 1.05),
        "for large rates": both(
            more_than(runs_that_oscillate_or_diverge_at_the_largest_rate, 0.5),
            less_than(runs_that_oscillate_or_diverge_at_the_best_rate, 0.5),
        ),
    }
    figures = (
        f"smallest rate: loss {loss_by_the_smallest_rate} the best rate's; largest: oscillating or diverging in "
        f"{runs_that_oscillate_or_diverge_at_the_largest_rate} of the runs (best: "
        f"{runs_that_oscillate_or_diverge_at_the_best_rate}), loss {loss_by_the_largest_rate} the best rate's, "
        f"{loss_at_the_end_of_the_largest_rate} nats"
    )
    return verdict_of(holds, figures)


def adaptive_is_faster(
    loss_of_Adam_as_written: Effect,
    loss_of_Adam_tuned: Effect,
    loss_of_Adam_in_noise: Effect,
    loss_by_noise_Adam_over_SGD: Effect,
    loss_by_noise_SGD: Effect,
    loss_by_noise_Adam: Effect,
) -> Verdict:
    """Losses of Adam are training losses after as many updates, as factors of SGD's: with the examples' rates (0.001 and 0.01),
    and each with the best rate of its own sweep. Noise is made by batches of 4 in place of 32, for as many updates at the tuned
    rates; what it costs is the factor by which the loss rises. Adam is faster as written, is faster tuned, copes better with
    noise, where the factor (for noise, of what it costs Adam over what it costs SGD) is below 0.95. Supported if all three
    hold, refuted if none, depends if some; not testable if intervals are too wide to say."""
    holds = {
        "with the rates as written": less_than(loss_of_Adam_as_written, 0.95),
        "with tuned rates": less_than(loss_of_Adam_tuned, 0.95),
        "in what noise costs": less_than(loss_by_noise_Adam_over_SGD, 0.95),
    }
    figures = (
        f"Adam's loss is {loss_of_Adam_as_written} SGD's as written and {loss_of_Adam_tuned} tuned; noise makes it "
        f"{loss_by_noise_Adam} what it was, SGD's {loss_by_noise_SGD}; in noise Adam's is {loss_of_Adam_in_noise} SGD's"
    )
    return verdict_of(holds, figures)


def decay_is_precise(
    distance_left_of_the_line: Effect, loss_of_digits_as_written: Effect, loss_of_digits_later: Effect
) -> Verdict:
    """Each is what a decaying rate leaves as a factor of what its first rate, kept constant, leaves: of the distance to the
    least-squares line (labels noisy, so that a constant rate ends in a cloud around it), and of the digits' training loss after
    B2's epochs and after twice as many. More precise is a factor below 0.95. Supported if all three are, refuted if none
    is, depends if some are; not testable if intervals are too wide to say."""
    effects = {
        "for the line": distance_left_of_the_line,
        "for the digits as written": loss_of_digits_as_written,
        "for the digits trained twice as long": loss_of_digits_later,
    }
    figures = ", ".join(f"{effect} {what}" for what, effect in effects.items())
    return verdict_of({what: less_than(effect, 0.95) for what, effect in effects.items()}, f"decay leaves {figures}")


def one_point_at_a_time(examples_in_an_update: Mapping[str, int]) -> Verdict:
    """Supported if no update of B1 is made from more than one example, refuted if none is made from a single one, depends
    otherwise; counted inside the step."""
    least, most = examples_in_an_update["fewest"], examples_in_an_update["most"]
    figures = (
        f"an update is made from {least} examples" if least == most else f"an update is made from {least} to {most} examples"
    )
    if most == 1:
        return Verdict(SUPPORTED, figures)
    return Verdict(DEPENDS, figures, on="the update") if least == 1 else Verdict(REFUTED, figures)


CLAIMS = (
    Claim("B-a", "Too large a rate oscillates or diverges, too small is slow", rates_too_large_or_small),
    Claim("B-b", "Adaptive methods converge faster and cope with noise", adaptive_is_faster),
    Claim("B-c", "Decaying the rate gives more precise convergence", decay_is_precise),
    Claim("B-d", 'SGD in B1 "considers a single data point"', one_point_at_a_time),
)
