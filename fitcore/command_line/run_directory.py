"""What an experiment's `main` is given: its run's directory, what its flags make, and what its fits leave there."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from fitcore.checkpoint import Checkpoint, Folders
from fitcore.command_line import registry, spec_flags
from fitcore.command_line.curves import CurveWriter, file_of
from fitcore.command_line.digests import DigestingHistory
from fitcore.command_line.environment import write_json
from fitcore.command_line.profile import Profile
from fitcore.hooks import Hook, Progress
from fitcore.noise import GradientNoise


@dataclass
class RunDirectory:
    """What an experiment's `main` is given.

    Attributes:
      path: the run's folder; it exists.
      seed: --seed. The global seed is set to it; set it again (`keras.utils.set_random_seed`) before each model that is
        to start alike.
      verbose: --verbose, for `fit` and `evaluate`; 0 for "auto".
      progress: whether `history` brings a `fitcore.Progress` along, as with "auto".
      specs: by flag, what was asked of `run(flags=...)`: --optimizer and --noise a spec or None, --schedule and --stop a list
        of specs or None; --numerics.
      profile: --profile's hook, which the fits with a `history` get.
      strategy: --strategy's; None without.
    """

    path: Path
    seed: int = 0
    verbose: int = 0
    progress: bool = False
    specs: Mapping[str, Any] = field(default_factory=dict)
    profile: Profile | None = None
    strategy: tf.distribute.Strategy | None = None
    _folders: Folders | None = None
    _histories: dict[str, DigestingHistory] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)
    _saved: set[str] = field(default_factory=set)

    def optimizer(self) -> keras.optimizers.Optimizer:
        """A new optimizer as --optimizer says, one for each model."""
        spec = self._spec("optimizer")
        if spec is None:
            raise ValueError("`flags` of launch.run must give --optimizer a default spec, such as 'adam'. Received: None")
        return registry.make("optimizer", spec)

    def schedule(self) -> dict[str, Any]:
        """fit's `schedule`: what --schedule says, by what is scheduled; empty without the flag. (A plateau is in `hooks`.)"""
        return {name: made for name, made in self._schedules().items() if not isinstance(made, Hook)}

    def hooks(self) -> list[Hook]:
        """New hooks for one fit: those of --stop and those of --schedule. Kept for several fits, they go on counting."""
        stops = self._spec("stop") or () if "stop" in self.specs else ()
        scheduling = self._schedules().values() if "schedule" in self.specs else ()
        return [*(made for made in scheduling if isinstance(made, Hook)), *(registry.make("stop", spec) for spec in stops)]

    def noise(self) -> GradientNoise | bool:
        """fit's `noise`: what --noise says; False without the flag."""
        spec = self._spec("noise")
        return False if spec is None else registry.make("noise", spec)

    def numerics(self) -> dict[str, Any]:
        """fit's `numerics` and `plan` by name, as --numerics says."""
        numerics, _, plan = (self._spec("numerics") or "exact").partition(":")
        return {"numerics": numerics, "plan": plan or "auto"}

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """What models are to be made and compiled in, as --strategy says: the strategy's scope."""
        self._spec("strategy")
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def unused(self) -> list[str]:
        """Names of the flags that were given and never asked for by one of the methods above."""
        unused = [name for name, spec in self.specs.items() if spec and name not in self._used]
        return [*unused, *(["checkpoint_every"] if self._folders is not None and not self._saved else [])]

    def _schedules(self) -> dict[str, Any]:
        return spec_flags.schedules_of(self._spec("schedule") or ())

    def _spec(self, name: str) -> Any:
        if name not in self.specs:
            raise ValueError(f"`flags` of launch.run must name {name!r} for the experiment to use it.")
        self._used.add(name)
        return self.specs[name]

    def history(self, name: str) -> DigestingHistory:
        """A fresh History for one fit, to be put into its `callbacks`: the fit fills it, and history.json gets it.

        It keeps a digest of every variable per epoch, and writes curves/NAME.jsonl while the fit runs: its epochs, and what
        `fitcore.fit` records per step, of which it shows the progress with --verbose=auto. Works with `fitcore.fit` and
        `model.fit` alike.

        Raises:
          ValueError: if `name` was given before.
        """
        if file_of(self.path, name) in (file_of(self.path, other) for other in self._histories):
            raise ValueError(f"`name` must differ from fit to fit. Received: name={name!r}, which this run has already.")
        history = self._histories[name] = DigestingHistory(CurveWriter(self.path, name))
        if self.profile is not None:
            history.hooks.append(self.profile)
        if self.progress:
            history.hooks.append(Progress())
        return history

    def checkpoint(self, name: str) -> Checkpoint | None:
        """fit's `checkpoint` for one fit, in the folder checkpoints/NAME of the run; None without --checkpoint_every.

        Raises:
          ValueError: if `name` was given before.
        """
        if name in self._saved:
            raise ValueError(f"`name` must differ from fit to fit. Received: name={name!r}, which this run has already.")
        self._saved.add(name)
        return None if self._folders is None else self._folders.of(name)

    def write_histories(self) -> None:
        """Write history.json with what the fits have left so far, and what is still missing in their curves."""
        for history in self._histories.values():
            if history.writer is not None:
                history.writer.complete(getattr(history, "first_step", 0), getattr(history, "steps", {}))
        found = {
            name: {
                "epoch": getattr(history, "epoch", []),
                "history": history.history,
                "first_step": getattr(history, "first_step", 0),
                "steps": getattr(history, "steps", {}),
                "digests": history.digests,
            }
            for name, history in self._histories.items()
        }
        try:
            write_json(self.path / "history.json", found)
        except OSError as error:  # all else the run has to say is still to come
            warnings.warn(f"{self.path / 'history.json'} can't be written: {error}", stacklevel=2)
