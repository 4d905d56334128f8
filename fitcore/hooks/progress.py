"""How far a fit is: one line that is written over on a terminal and in a notebook, a line per epoch elsewhere."""

from __future__ import annotations

import math
import shutil
import sys
import time
from typing import Any

from absl import flags, logging

from fitcore.hooks.protocol import RETURNS, Answer, Hook, View

SECONDS = 0.1  # between two versions of the line


class Progress(Hook):
    """Says epoch, step, steps and examples per second, time left, loss, and the gradient noise scale if it is measured.

    On a terminal and in a notebook that is one line, written over a few times a second. Elsewhere, in a pipe or a log, it is a
    line at the end of each epoch, with all its metrics, on the error output: in an experiment and any other program that has
    parsed absl's flags it is logged at the level "info", so that --verbosity=-1 hides it. It makes no compiled call shorter and
    records nothing.
    """

    when = RETURNS

    def __init__(self) -> None:
        self._began: tuple[float, int] | None = None  # when steps began to be counted, and after which
        self._written = 0.0
        self._width = 0  # of the line that stands there

    def begin(self, view: View) -> None:
        self._began, self._written, self._width = None, 0.0, 0

    def after_steps(self, view: View) -> Answer:
        now = time.monotonic()
        if self._began is None:
            self._began = now, view.step  # what came before was traced too
        if now - self._written >= SECONDS and is_live():
            self._written = now
            self._show(in_words(view, self._pace(view), view.logs.get("loss")))
        return None

    def after_epoch(self, view: View) -> Answer:
        if is_live():
            self._show(in_words(view, self._pace(view), view.logs.get("loss")))
            return None
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in view.logs.items() if isinstance(value, (int, float)))
        log(f"{in_words(view, self._pace(view), None)}, {metrics}")
        return None

    def end(self, view: View) -> None:
        if self._width:
            sys.stdout.write("\n")
            sys.stdout.flush()

    def _pace(self, view: View) -> float:
        """Steps per second, validation included; NaN before it can be told."""
        if self._began is None or view.step == self._began[1]:
            return math.nan
        return (view.step - self._began[1]) / (time.monotonic() - self._began[0])

    def _show(self, line: str) -> None:
        line = line[: shutil.get_terminal_size().columns - 1]
        sys.stdout.write("\r" + line.ljust(self._width))
        sys.stdout.flush()
        self._width = len(line)


def in_words(view: View, pace: float, loss: Any) -> str:
    """Where a fit is, in a line; what isn't known is left out. `pace`: steps per second; `loss`: None leaves it out."""
    steps = view.steps_per_epoch
    parts = [f"epoch {view.epoch + 1}/{view.fit.epochs}", f"step {view.epoch_step}" + (f"/{steps}" if steps else "")]
    if math.isfinite(pace):
        parts.append(f"{pace:.4g} steps/s")
        if view.fit.batch_size:
            parts.append(f"{pace * view.fit.batch_size:.4g} examples/s")
        if steps:
            left = (view.fit.epochs - view.epoch) * steps - view.epoch_step
            parts.append(f"{clock(left / pace)} left")
    if loss is not None:
        parts.append(f"loss {loss:.4g}")
    noise = view.fit.noise_scale()
    if noise is not None:
        parts.append("noise scale " + (f"{noise:.3g}" if math.isfinite(noise) else "unknown"))
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """1:02 or 3:04:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def is_live() -> bool:
    """Whether a line of the output can be written over: on a terminal, and in a notebook, whose output is none."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel") or sys.stdout.isatty()


def log(line: str) -> None:
    """Log at absl's level "info", or write where nobody could set the level."""
    if flags.FLAGS.is_parsed():
        logging.info(line)
    else:
        print(line, file=sys.stderr, flush=True)
