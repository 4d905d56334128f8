"""How far a fit is: one line that is written over on a terminal and in a notebook, a line per epoch elsewhere."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from absl import flags, logging

from fitcore.hooks.protocol import RETURNS, Answer, Hook, View

SECONDS = 0.1  # between two versions of the line


class Progress(Hook):
    """Says epoch, step, loss, the gradient noise scale if it is measured, time left, and steps and examples per second.

    On a terminal and in a notebook that is one line, written over a few times a second, as far as there is room. Elsewhere, in
    a pipe or a log, it is a line at the end of each epoch, with all its metrics, on the error output: in an experiment and any
    other program that has parsed absl's flags it is logged at the level "info", so that --verbosity=-1 hides it. It makes no
    compiled call shorter and records nothing.
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
            self._show(view)
        return None

    def after_epoch(self, view: View) -> Answer:
        if is_live():
            self._show(view)
        else:
            log(", ".join(parts(view, self._pace(view), view.logs)))
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

    def _show(self, view: View) -> None:
        """As many parts as there is room for."""
        line, room = "", shutil.get_terminal_size().columns - 1
        for part in parts(view, self._pace(view), {name: value for name, value in view.logs.items() if name == "loss"}):
            longer = f"{line}, {part}" if line else part[:room]
            if len(longer) > room:
                break
            line = longer
        sys.stdout.write("\r" + line.ljust(self._width))
        sys.stdout.flush()
        self._width = len(line)


def parts(view: View, pace: float, metrics: Mapping[str, Any]) -> list[str]:
    """Where a fit is, the most important first; what isn't known is left out. `pace`: steps per second."""
    steps = view.steps_per_epoch
    found = [f"epoch {view.epoch + 1}/{view.fit.epochs}", f"step {view.epoch_step}" + (f"/{steps}" if steps else "")]
    found += [f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, (int, float))]
    noise = view.fit.noise_scale()
    if noise is not None:
        found.append("noise scale " + (f"{noise:.3g}" if math.isfinite(noise) else "unknown"))
    if math.isfinite(pace):
        if steps:
            left = (view.fit.epochs - view.epoch) * steps - view.epoch_step
            found.append(f"{clock(left / pace)} left")
        found.append(f"{short(pace)} steps/s")
        if view.fit.batch_size:
            found.append(f"{short(pace * view.fit.batch_size)} examples/s")
    return found


def short(number: float) -> str:
    """Three digits: 1.23, 123, 12.3k, 1.23M."""
    for unit in ("", "k", "M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"


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
