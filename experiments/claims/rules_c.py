"""The claims of question C, and the rules that settle them."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.claims.statistics import Effect
from experiments.claims.verdicts import DEPENDS, NOT_TESTABLE, REFUTED, SUPPORTED, Claim, Verdict
from experiments.claims.words import short

NEGLIGIBLE = 1.10  # times as long


def calls_explore(
    same_bits_by_fitcore: Effect,
    same_bits_by_Keras: Effect,
    validation_loss_of_calls_to_one_call: Effect,
    validation_loss_if_each_call_forgets_the_optimizer: Effect,
) -> Verdict:
    """Refuted if in every run, by fitcore and by Keras, so many calls of one epoch end in the very bits of one call of so many
    epochs: then they are one computation. Supported if they do in no run, and the calls end at a lower validation loss (factor
    below 1). Depends otherwise. Beside it: calls that forget the optimizer's state, as when each compiles the model anew."""
    forgets = validation_loss_if_each_call_forgets_the_optimizer
    forgetful = f"if each call forgets the optimizer's state, the validation loss is {forgets}"
    shares = f"same bits by fitcore {same_bits_by_fitcore}, by Keras {same_bits_by_Keras}"
    if same_bits_by_fitcore.mean == same_bits_by_Keras.mean == 1:
        return Verdict(REFUTED, f"calls and epochs are one computation: {shares}; {forgetful}")
    if same_bits_by_fitcore.mean == same_bits_by_Keras.mean == 0 and validation_loss_of_calls_to_one_call.high < 1:
        return Verdict(SUPPORTED, f"{shares}; validation loss of the calls: {validation_loss_of_calls_to_one_call}")
    return Verdict(DEPENDS, f"{shares}; validation loss of the calls: {validation_loss_of_calls_to_one_call}", on="the run")


def calls_stop_early(
    one_call_stopped: Effect, calls_stopped_by_the_callback: Effect, calls_stopped_by_a_count_that_lasts: Effect
) -> Verdict:
    """Shares of runs that stop before their last epoch. Not testable if EarlyStopping stops no run of one call. Supported if,
    given to each of the calls, it stops as many runs as it does in one call. Depends, on who counts, if it stops fewer, but a
    count that lasts over the calls (fitcore.EarlyStopping) stops as many; refuted if that doesn't either."""
    figures = (
        f"stopped early: one call with EarlyStopping {one_call_stopped}; calls with it {calls_stopped_by_the_callback}; calls "
        f"with a count that lasts {calls_stopped_by_a_count_that_lasts}"
    )
    if one_call_stopped.mean == 0:
        return Verdict(NOT_TESTABLE, f"nothing gave a reason to stop; {figures}")
    if calls_stopped_by_the_callback.mean >= one_call_stopped.mean:
        return Verdict(SUPPORTED, figures)
    if calls_stopped_by_a_count_that_lasts.mean >= one_call_stopped.mean:
        return Verdict(DEPENDS, figures, on="who counts: Keras's EarlyStopping begins anew in each call")
    return Verdict(REFUTED, figures)


def schedule_compounds(as_written: str, rate_in_epoch: Mapping[int, float]) -> Verdict:
    """Supported if C3 as written raises ValueError and, passed properly, its schedule takes the rate from 1e-3 in epoch 49 to
    1e-53 in epoch 99 (both to 1 %). Refuted if it raises none, or if the rate in epoch 51 is more than half of that in epoch
    50. Depends if it raises and compounds, but ends elsewhere."""
    rates = ", ".join(f"{short(rate)} in epoch {epoch}" for epoch, rate in rate_in_epoch.items())
    if not as_written.startswith("ValueError") or rate_in_epoch[51] > rate_in_epoch[50] / 2:
        return Verdict(REFUTED, f"{as_written}; the rate: {rates}")
    if abs(rate_in_epoch[49] / 1e-3 - 1) < 0.01 and abs(rate_in_epoch[99] / 1e-53 - 1) < 0.01:
        return Verdict(SUPPORTED, f"the rate: {rates}")
    ends = "the rate is a float32, which ends below 1.4e-45" if rate_in_epoch[99] == 0 else "it ends elsewhere"
    return Verdict(DEPENDS, f"it raises, and it compounds: {rates}", on=f"the arithmetic: {ends}")


def overhead_negligible(calls_to_one_call_by_Keras: Effect, calls_to_one_call_by_fitcore: Effect) -> Verdict:
    """How many times as long calls of one epoch take as one call of as many epochs, warm, in turns (median). Negligible is up
    to 1.10 times. Supported if the intervals of both lie below, refuted if both lie above, depends otherwise."""
    figures = f"times as long: Keras {calls_to_one_call_by_Keras}, fitcore {calls_to_one_call_by_fitcore}"
    both = (calls_to_one_call_by_Keras, calls_to_one_call_by_fitcore)
    if all(ratio.high < NEGLIGIBLE for ratio in both):
        return Verdict(SUPPORTED, figures)
    if all(ratio.low > NEGLIGIBLE for ratio in both):
        return Verdict(REFUTED, figures)
    told = all(ratio.high < NEGLIGIBLE or ratio.low > NEGLIGIBLE for ratio in both)
    return Verdict(DEPENDS, figures, on="the loop: Keras's or fitcore's" if told else "the loop, as far as these times tell")


def noise_helps(
    validation_loss_at_the_end_by_noise: Mapping[str, Effect], lowest_validation_loss_by_noise: Mapping[str, Effect]
) -> Verdict:
    """For each strength of noise, the factor by which fresh noise on the inputs in each epoch changes the validation loss, at
    the end and at its lowest. Supported if it lowers both at every strength (intervals below 1), refuted if none at any,
    depends otherwise."""
    factors = {f"noise {s}, at the end": factor for s, factor in validation_loss_at_the_end_by_noise.items()}
    factors |= {f"noise {s}, at its lowest": factor for s, factor in lowest_validation_loss_by_noise.items()}
    figures = "factor of the validation loss: " + "; ".join(f"{name}: {factor}" for name, factor in factors.items())
    helps = [name for name, factor in factors.items() if factor.high < 1]
    if len(helps) == len(factors):
        return Verdict(SUPPORTED, figures)
    if not helps:
        return Verdict(REFUTED, figures)
    return Verdict(DEPENDS, figures, on=f"how strong and when: it helps with {'; '.join(helps)} only")


CLAIMS = (
    Claim("C-a", "One call and many explore the weight space differently, and many calls escape poor minima", calls_explore),
    Claim("C-b", "Many calls of one epoch allow early stopping", calls_stop_early),
    Claim("C-c", "C3 as written raises ValueError; passed properly, 1e-3 at epoch 49 is 1e-53 at epoch 99", schedule_compounds),
    Claim("C-d", "The overhead of the extra calls is negligible", overhead_negligible, timed=True),
    Claim("C-e", "Fresh noise on the data between epochs helps to generalise", noise_helps),
)
