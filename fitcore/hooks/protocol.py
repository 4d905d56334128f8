"""What a hook is.

A hook says *when* it needs the host and *what* it wants recorded; the loop derives from that how many steps run per
compiled call. It is shown an immutable `View` and answers with requests; it never writes into anything it is shown. What
can be decided without the host it has decided inside the compiled loop, by a rule (hooks/in_loop.py).

    fit                    hook
    ---------------------  -----------------------------------------------------------
    before the first step  begin(view)
    in the compiled loop   in_loop.after_step  after each step, without a return to the host
    after a compiled call  after_steps(view)   if `when` says so
    after an epoch         after_epoch(view)   if `when.epochs`; validation has run
    at the end             end(view)           always: after a stop, an error and Ctrl-C too
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fitcore.hooks.in_loop import LoopRule


@dataclass(frozen=True)
class When:
    """When a hook needs the host.

    Attributes:
      steps: after every so many optimizer steps: compiled calls end there. None: never for a step's sake.
      returns: whenever a compiled call has come back anyway, a few times a second; makes no call shorter.
      epochs: after each epoch.
    """

    steps: int | None = None
    returns: bool = False
    epochs: bool = True

    def __post_init__(self) -> None:
        if self.steps is not None and (not isinstance(self.steps, int) or self.steps < 1):
            raise ValueError(f"`steps` must be a positive int or None. Received: steps={self.steps!r}")


NEVER = When(epochs=False)
EPOCHS = When()
RETURNS = When(returns=True)
EVERY_STEP = When(steps=1)


def every(steps: int) -> When:
    """After steps n, 2n, 3n, ... of the run (a run's first step is step 1 in this count), and after each epoch."""
    return When(steps=steps)


@dataclass(frozen=True)
class Fit:
    """The fit as a whole, for hooks that show it.

    Attributes:
      epochs: index of the epoch to end before.
      batch_size: rows in a batch as far as that is fixed and known, else None.
      jit_compile: whether XLA compiles its steps.
      describe: () -> what `fitcore.explain` says of it.
      step_graph: () -> the `tf.Graph` of one of its steps; None before the first, and where steps run op by op.
      noise_scale: () -> the gradient noise scale as of its last step, in examples; NaN if it is undetermined, None if it isn't
        measured.
      history: () -> its History; in a hook's `end` it has `stop_reason` and `account`.
    """

    epochs: int
    batch_size: int | None
    jit_compile: bool
    describe: Callable[[], str]
    step_graph: Callable[[], Any]
    noise_scale: Callable[[], float | None]
    history: Callable[[], Any]


@dataclass(frozen=True)
class View:
    """What a hook is shown. Nothing in it can be changed.

    Attributes:
      epoch: index of the epoch, as in Keras (0 for the first).
      step: optimizer steps done so far, earlier fits of the same optimizer included; the last one had index step - 1.
      epoch_step: steps done in this epoch.
      steps_per_epoch: None while unknown.
      logs: Keras's logs: running means since the epoch's start; after an epoch `val_...` too.
      records: what was recorded since this hook was last called: by name, float64, one entry per step.
      first_step: index of the step that the first entry of `records` belongs to.
      evaluation: `val_...` of the latest evaluation that a hook asked for.
      fit: the fit as a whole.
    """

    epoch: int
    step: int
    epoch_step: int
    steps_per_epoch: int | None
    logs: Mapping[str, Any]
    records: Mapping[str, np.ndarray]
    first_step: int
    evaluation: Mapping[str, float]
    fit: Fit


@dataclass(frozen=True)
class Stop:
    """End training after this step. Validation and the epoch's end still run, as after Keras's `stop_training`."""

    reason: str


@dataclass(frozen=True)
class Save:
    """Save the model now: `.weights.h5` its weights, `.keras` all of it."""

    path: str | os.PathLike[str]


@dataclass(frozen=True)
class Evaluate:
    """Evaluate on the validation data now. The running metrics of the epoch under way are left as they are."""


@dataclass(frozen=True)
class Keep:
    """Keep the model's weights as they are now, in the hook's `kept`, in place of those kept before."""


@dataclass(frozen=True)
class Restore:
    """When this fit ends, put the weights back that were kept."""


@dataclass(frozen=True)
class Set:
    """Change a setting from the next step on. `name`: "learning_rate", or "batch_size" in a fit that lets it change."""

    name: str
    value: float


Request = Stop | Save | Evaluate | Keep | Restore | Set
Answer = Request | Iterable[Request] | None


class Hook:
    """Does nothing, at epoch ends. Override what is needed.

    Attributes:
      when: when the host is needed.
      record: scalars to record at each step inside the compiled loop: names from `fitcore.RECORDERS` or of metrics, or a
        mapping from names to recorders.
      changes: names of the settings it changes by `Set`, if "batch_size" is among them.
      in_loop: a rule that decides after each step inside the compiled loop. A fit measures the gradient noise if it reads that.
      kept: the weights that `Keep` kept, arrays in the order of `model.get_weights()`.
      loop_state: the rule's state, brought up to date after each compiled call; None before the first. It lives as long as
        the hook does: over repeated fits the rule goes on from it.
    """

    when: When = EPOCHS
    record: Iterable[str] | Mapping[str, Any] = ()
    changes: tuple[str, ...] = ()
    in_loop: LoopRule | None = None
    loop_state: dict[str, float] | None = None
    kept: list[np.ndarray] | None = None

    def begin(self, view: View) -> None:
        """Before the first step."""

    def after_steps(self, view: View) -> Answer:
        """After the steps that `when` names."""
        return None

    def after_epoch(self, view: View) -> Answer:
        """After an epoch and its validation."""
        return None

    def end(self, view: View) -> None:
        """When fit ends, however it ends. Close files here."""

    def state(self) -> dict[str, Any]:
        """What must be saved for the hook to go on in another process: JSON-able values, and arrays."""
        return {"loop": self.loop_state, "kept": self.kept}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a state that `state` gave."""
        self.loop_state, self.kept = state["loop"], state["kept"]


class InLoop(Hook):
    """A hook that is nothing but a rule inside the compiled loop.

    Args:
      rule: the rule.
    """

    when = NEVER

    def __init__(self, rule: LoopRule) -> None:
        self.in_loop = rule


def name_of(hook: Hook) -> str:
    """What stop reasons, errors and `explain` call a hook."""
    return type(hook.in_loop if isinstance(hook, InLoop) else hook).__name__
