"""The place in the data: Keras's `EpochIterator`, made explicit so that it can be shown, saved and restored."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fitcore.data.sources import ResizableSource, Source


class Stream:
    """Batches in order, pass after pass, cut into epochs.

    A *pass* visits each batch of the source once. An *epoch* is one pass, unless `steps_per_epoch` is given: then passes
    run on across epochs, and data that run out end the epoch with Keras's warning.

    Args:
      source: where batches come from.
      steps_per_epoch: as in fit.
      steps_per_execution: Keras's, when the user set one: an epoch is then rounded up to whole executions.
      first_pass: index of the first pass (fit's initial epoch), for orders that depend on it.
    """

    def __init__(
        self, source: Source, steps_per_epoch: int | None = None, steps_per_execution: int = 1, first_pass: int = 0
    ) -> None:
        self.source = source
        self.steps_per_epoch = steps_per_epoch
        self.steps_per_execution = steps_per_execution
        self.pass_index = first_pass  # the pass under way, or the next one
        self.place = 0  # in that pass: index of the next batch, or of its first row where the batch size may change
        self.rows: int | None = source.batch_size if isinstance(source, ResizableSource) else None  # rows in the next batch
        self.step = 0  # next step of the epoch under way
        self.feed: Any = None  # what the pass under way is served from
        self._num_batches = source.num_batches
        self._read: list[int] = []  # batches taken from each pass that was opened, tries in vain included

    def reset(self) -> None:
        """Forget the pass under way. As in Keras, a PyDataset hears of an epoch's end before its first one too.

        `fit` does so once, and each evaluation.
        """
        self.feed = None
        self._num_batches = self.source.num_batches
        self.source.on_epoch_end()

    @property
    def num_steps(self) -> int | None:
        """Steps per epoch as the progress bar is told; None while unknown."""
        return self.steps_per_epoch or self._num_batches

    def begin_epoch(self) -> None:
        """Open a pass, unless `steps_per_epoch` lets the last one run on."""
        self.source.on_epoch_begin(new_pass=self.place == 0 or self.feed is None or self.steps_per_epoch is None)
        self.step = 0
        if self.feed is None or self.steps_per_epoch is None:
            self._open_pass()

    def remaining(self) -> int | None:
        """Steps left in this epoch before it, or its data, end; None if that is not known."""
        if self.source.ended(self.place):
            return 0
        limit = self.num_steps
        if not limit:  # of 0 batches, too, Keras finds out by asking for one
            return None
        left = self._whole_executions(limit) - self.step
        if self._num_batches:
            left = min(left, self._num_batches - self.place)
        return max(left, 0)

    @property
    def execution_step(self) -> int:
        """First step of the next execution as Keras's callbacks count it: a multiple of `steps_per_execution`."""
        return self._whole_executions(self.step)

    def left_of_execution(self) -> int:
        """Steps until the execution under way, or the next one, ends."""
        return self.steps_per_execution - self.step % self.steps_per_execution

    def at_execution(self) -> bool:
        """Whether the last execution has ended, and none is under way."""
        return self.step % self.steps_per_execution == 0

    def advance(self, steps: int, place: int | None = None, rows: int | None = None) -> None:
        """Note that `steps` batches have been used; where their size may change, where the next one begins and its rows."""
        self.step += steps
        self._read[-1] += steps
        self.place = self.place + steps if place is None else place
        self.rows = rows

    def end_epoch(self) -> None:
        """The epoch's steps have run.

        A pass that is used up is followed by the next one at once, although `begin_epoch` may open it again: so does
        Keras, and a dataset that reshuffles draws a new seed each time it is opened.
        """
        if self.source.ended(self.place) or (self._num_batches and self.place >= self._num_batches):
            if self.steps_per_epoch and self.step < self.steps_per_epoch:
                _warn_out_of_data()
            self.pass_index += 1
            if self.source.draws_when_opened:
                self._open_pass()
            else:
                self.feed, self.place = None, 0
        self.source.on_epoch_end()

    def out_of_data(self) -> None:
        """The source ended before the epoch did. A source of unknown size counts as one batch longer than it was (sic)."""
        self._read[-1] += 1
        self.interrupted()

    def interrupted(self, ran: int = 0) -> None:
        """The epoch ended as if the data had: so Keras takes it where a batch method of a callback raises StopIteration.

        Args:
          ran: steps of the execution under way that have been made.
        """
        if self._num_batches is None and self.rows is None:
            self._num_batches = self._whole_executions(self.place - ran) + self.steps_per_execution
        _warn_out_of_data()
        self.pass_index += 1
        self.feed = None
        self.source.on_epoch_end()

    def state(self) -> dict[str, Any]:
        """The place reached, and what the source needs to come back to it: plain values and arrays."""
        place = {"pass_index": self.pass_index, "place": self.place, "step": self.step, "rows": self.rows}
        passes = {"num_batches": self._num_batches, "read": list(self._read), "open": self.feed is not None}
        return {**place, **passes, "source": self.source.state(self.feed)}

    def load_state(self, state: Mapping[str, Any], within: bool, iterator: Path | None = None) -> None:
        """Go to the place that a stream over the same data had reached in another process.

        Args:
          state: what `state` gave there.
          within: whether an epoch is under way.
          iterator: as in `Source.open_again`.

        Raises:
          ValueError: the data have another order here.
        """
        self.pass_index, self.place, self.step = state["pass_index"], state["place"], state["step"]
        self.rows, self._num_batches, self._read = state["rows"], state["num_batches"], list(state["read"])
        feed = self.source.open_again(state["source"], self.pass_index, self._read, within, iterator)
        self.feed = feed if state["open"] else None

    def _whole_executions(self, steps: int) -> int:
        return -(-steps // self.steps_per_execution) * self.steps_per_execution

    def _open_pass(self) -> None:
        self.place = 0
        self._read.append(0)
        self.feed = self.source.open_pass(self.pass_index)


def _warn_out_of_data() -> None:
    warnings.warn(
        "Your input ran out of data; interrupting training. Make sure that your dataset or generator can generate "
        "at least `steps_per_epoch * epochs` batches. You may need to use the `.repeat()` function when building your "
        "dataset.",
        stacklevel=6,  # who called fit or evaluate
    )
