"""The flags that an experiment asks for: --optimizer, --schedule, --stop and --noise, whose values are specs; and others."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from fitcore.command_line import registry
from fitcore.command_line.strategy import STRATEGIES

_HELP = {
    "optimizer": "The optimizer: NAME:VALUE,PARAMETER=VALUE.",
    "schedule": "A schedule of the learning rate, in steps, or by SETTING=SPEC of another setting: momentum, rho, beta_1, "
    "beta_2, weight_decay, batch_size. Several with commas between make a chain. May be repeated.",
    "stop": "When to stop early. May be repeated.",
    "noise": "Measure the gradient noise; by itself as --noise=auto.",
}
_REPEATED = ("schedule", "stop")
# Those with a few values: these, and what they say.
_ENUMS = {
    "precision": (
        ("float32", "float64", "mixed_bfloat16", "mixed_float16"),
        "Keras's dtype policy for the layers: what they compute in and keep. Default: Keras's own setting.",
    ),
    "numerics": (
        ("exact", "fast", "fast:graph", "fast:xla"),
        "As in fit: exact, the bits of model.fit; fast, whose last bits may differ; behind a colon the plan.",
    ),
    "strategy": (
        STRATEGIES,
        "The tf.distribute strategy: one device, mirrored over all GPUs, or multiworker, over the processes that "
        "`python -m fitcore.cluster` starts. Default: none.",
    ),
}


def define(wanted: Mapping[str, str | Sequence[str] | None]) -> None:
    """Define these flags, with these specs as defaults.

    Raises:
      ValueError: there is no such flag, or a default is no spec.
    """
    full = any(argument.lstrip("-") == "helpfull" for argument in sys.argv[1:])
    for name, default in wanted.items():
        if name in _ENUMS:
            values, says = _ENUMS[name]
            flags.DEFINE_enum(name, default, values, says, allow_override=True)
            continue
        if name not in registry.KINDS:
            raise ValueError(f"`flags` must name some of {', '.join((*registry.KINDS, *_ENUMS))}. Received: {name!r}")
        about = [_HELP[name], *([f"- {line}" for line in registry.describe(name)] if full else [])]
        if not full:
            about.append(f"One of {', '.join(registry.names(name))}; --helpfull says their parameters.")
        parser: Any = _SpecParser(name)
        if name in _REPEATED:
            flag = flags.MultiFlag(parser, flags.ArgumentSerializer(), name, default, "\n".join(about), allow_override=True)
        elif name == "noise":
            flag = _NoiseFlag(parser, None, name, default, "\n".join(about), boolean=True, allow_override=True)
        else:
            flag = flags.Flag(parser, flags.ArgumentSerializer(), name, default, "\n".join(about), allow_override=True)
        flags.DEFINE_flag(flag)


def schedules_of(specs: Iterable[str]) -> dict[str, Any]:
    """What each spec of --schedule makes, a schedule or a hook, by what it schedules.

    Raises:
      ValueError: it is no spec, or schedules what another schedules already.
    """
    made: dict[str, Any] = {}
    for spec in specs:
        setting, description = _setting(spec)
        if setting in made:
            raise ValueError(f"{setting} is scheduled twice, the second time by {spec!r}. A chain is one flag: A:100,B:200.")
        made[setting] = registry.make("schedule", description)
    return made


def _setting(spec: str) -> tuple[str, str]:
    """(what a spec of --schedule is for, the spec itself): `momentum=cosine:100` is for momentum, `cosine:100` for the rate."""
    before, equals, after = spec.partition("=")
    return (before, after) if equals and before.isidentifier() else ("learning_rate", spec)


class _SpecParser(flags.ArgumentParser):  # type: ignore[misc, unused-ignore]
    """Refuses what is no spec of its kind; the value stays the text."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def parse(self, argument: str) -> str | None:
        if self._kind == "noise" and argument in ("true", "false"):  # --noise, --nonoise
            argument = "auto" if argument == "true" else ""
        if not argument:
            return None
        if self._kind == "optimizer":
            registry.check(self._kind, argument)  # not made before the seed and the devices are set
        elif self._kind == "schedule":
            schedules_of([argument])
        else:
            registry.make(self._kind, argument)
        return argument

    def flag_type(self) -> str:
        return "spec"


class _NoiseFlag(flags.Flag):  # type: ignore[misc, unused-ignore]
    """May stand by itself, as a boolean flag, or have a spec."""

    def serialize(self) -> str:
        return "" if self.value is None else f"--{self.name}={self.value}"
