"""--profile=100:110: TensorFlow's profile of some steps of a fit, for TensorBoard's Profile tab."""

from __future__ import annotations

import re
from pathlib import Path

import tensorflow as tf

from fitcore.hooks import NEVER, Answer, Hook, View, every


def parse(steps: str) -> tuple[int, int]:
    """(steps done when it begins, steps done when it ends) of FIRST:LAST.

    Raises:
      ValueError: it isn't that.
    """
    match = re.fullmatch(r"(\d+):(\d+)", steps)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f'must be FIRST:LAST, two numbers of steps, the first below the last, like "100:110"; not {steps!r}')
    return int(match[1]), int(match[2])


class Profile(Hook):
    """Profiles the steps from index `first` on, up to but not with index `last`, of the first fit that gets that far.

    Compiled calls end at these steps, so that the profile holds them alone.

    Args:
      run: the run's directory; TensorBoard finds plugins/profile in it.
      first, last: steps of the fit.

    Attributes:
      done: whether there is a profile.
    """

    def __init__(self, run: Path, first: int, last: int) -> None:
        self._run, self._first, self._last = run, first, last
        self._profiling = self.done = False

    def begin(self, view: View) -> None:
        self.when = NEVER if self.done else every(self._first or self._last)
        if not self._first and not self.done:
            self._start()

    def after_steps(self, view: View) -> Answer:
        if self._profiling:
            self._stop()
        else:
            self._start()
        return None

    def end(self, view: View) -> None:
        if self._profiling:
            self._stop()

    def _start(self) -> None:
        tf.profiler.experimental.start(str(self._run))
        self._profiling, self.when = True, every(self._last)

    def _stop(self) -> None:
        tf.profiler.experimental.stop()
        self._profiling, self.done, self.when = False, True, NEVER
