"""The claims of question E, and the rules that settle them."""

from __future__ import annotations

from experiments.claims.statistics import Effect
from experiments.claims.verdicts import DEPENDS, REFUTED, SUPPORTED, Claim, Verdict


def one_call_insufficient(
    same_bits_by_fitcore: Effect, same_bits_by_Keras: Effect, training_loss_of_calls_to_one_call: Effect
) -> Verdict:
    """Refuted if in every run, by fitcore and by Keras, so many calls of one epoch end in the very bits of one call of so many
    epochs: then one call suffices. Supported if they do in no run, and the calls end at a lower training loss (factor below 1).
    Depends otherwise."""
    figures = f"same bits by fitcore {same_bits_by_fitcore}, by Keras {same_bits_by_Keras}"
    if same_bits_by_fitcore.mean == same_bits_by_Keras.mean == 1:
        return Verdict(REFUTED, f"calls and epochs are confused, and one call does what many do: {figures}")
    figures += f"; training loss of the calls to that of one call: {training_loss_of_calls_to_one_call}"
    if same_bits_by_fitcore.mean == same_bits_by_Keras.mean == 0 and training_loss_of_calls_to_one_call.high < 1:
        return Verdict(SUPPORTED, figures)
    return Verdict(DEPENDS, figures, on="the run")


def calls_for_monitoring(
    values_of_calls_found_in_one_call: Effect, values_seen_by_calls: int, values_recorded_by_one_call: int
) -> Verdict:
    """The share of all values that the Histories of the calls hold (losses and metrics, of training and validation) that the
    History of one call holds too, bit for bit. Refuted if it is all of them in every run, supported if it is none, depends
    otherwise. Beside it: how many values the calls show, and how many one call records, those of each step included."""
    figures = (
        f"of what the calls show, one call's History holds {values_of_calls_found_in_one_call}; values shown by the calls "
        f"{values_seen_by_calls}, recorded by one call {values_recorded_by_one_call}"
    )
    if values_of_calls_found_in_one_call.low == 1:
        return Verdict(REFUTED, figures)
    if values_of_calls_found_in_one_call.high == 0:
        return Verdict(SUPPORTED, figures)
    return Verdict(DEPENDS, figures, on="the value")


def same_stop(
    epochs_by_hand_less_callback: Effect,
    ends_in_the_same_weights: Effect,
    validation_loss_by_hand_to_callback: Effect,
    loss_on_fresh_data_by_hand_to_callback: Effect,
) -> Verdict:
    """Supported if in every run stopping by hand (E2) and by the callback (E3) train for as many epochs and end in the same
    bits; refuted if in every run they do neither; depends otherwise. Beside it: the factors between the losses of what they
    end with."""
    epochs = epochs_by_hand_less_callback
    figures = (
        f"epochs by hand less those by the callback: {epochs}; same weights {ends_in_the_same_weights}; loss by hand to that "
        f"by the callback: {validation_loss_by_hand_to_callback} in validation, "
        f"{loss_on_fresh_data_by_hand_to_callback} on fresh data"
    )
    if all(difference == 0 for difference in epochs.values) and ends_in_the_same_weights.mean == 1:
        return Verdict(SUPPORTED, figures)
    if all(difference != 0 for difference in epochs.values) and ends_in_the_same_weights.mean == 0:
        return Verdict(REFUTED, figures)
    return Verdict(DEPENDS, figures, on="the run")


def validation_is_noise(
    accuracy_above_one_half: Effect,
    change_of_the_validation_loss_as_long_as_E1: Effect,
    change_of_the_validation_loss_as_long_as_E2_may_be: Effect,
    fresh_loss_above_validation_loss: Effect,
) -> Verdict:
    """Labels are random, so nothing can be learnt. The validation accuracy, mean over the epochs, is noise if the interval of
    its excess over one half holds 0; the validation loss is noise if the interval of its change from the first epoch holds 0,
    both at E1's end and at the last epoch that E2 and E3 allow. Supported if both are, refuted if neither is, depends
    otherwise. Beside it: by how much the loss on fresh data exceeds that on the validation data, with the weights that E3
    chose by the latter."""
    accuracy = accuracy_above_one_half
    changes = (change_of_the_validation_loss_as_long_as_E1, change_of_the_validation_loss_as_long_as_E2_may_be)
    noise = {
        "the accuracy": accuracy.low <= 0 <= accuracy.high,
        "the loss": all(change.low <= 0 <= change.high for change in changes),
    }
    figures = (
        f"accuracy above one half {accuracy}; change of the loss {changes[0]} at E1's end, {changes[1]} at the last epoch that "
        f"E2 allows; loss on fresh data above that in validation, with the chosen weights {fresh_loss_above_validation_loss}"
    )
    if all(noise.values()):
        return Verdict(SUPPORTED, figures)
    if not any(noise.values()):
        return Verdict(REFUTED, figures)
    which = next(name for name, is_noise in noise.items() if is_noise)
    return Verdict(DEPENDS, figures, on=f"what is looked at: only {which} is noise")


CLAIMS = (
    Claim("E-a", "A single fit call is almost always insufficient", one_call_insufficient),
    Claim("E-b", "Repeated calls are needed for monitoring", calls_for_monitoring),
    Claim("E-c", "Early stopping by hand (E2) and by the callback (E3) do the same", same_stop),
    Claim("E-d", "The labels are random, so whatever validation shows is noise", validation_is_noise),
)
