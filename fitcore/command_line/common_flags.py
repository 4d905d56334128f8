"""The flags that every experiment has."""

from __future__ import annotations

from absl import flags

from fitcore.checkpoint import Checkpoint
from fitcore.checkpoint.config import RESUME as RESUMES

LOGDIR = flags.DEFINE_string(
    "logdir",
    None,
    "Folder the run is written into; it must not hold another run yet. Default: runs/<experiment>/<date and time>.",
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of Python's, NumPy's and TensorFlow's random numbers.", lower_bound=0, upper_bound=2**32 - 1
)
DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", True, "TensorFlow's op determinism: the same flags give the same bits on a GPU too, at some cost there."
)
VERBOSE = flags.DEFINE_enum(
    "verbose",
    "auto",
    ["auto", "0", "1", "2"],
    "As in fit: 0 silent, 1 Keras's bar, 2 a line per epoch; auto: on a terminal one line that shows how far it is, in a pipe "
    "a line per epoch, unless --verbosity=-1.",
)
CHECKPOINT_EVERY = flags.DEFINE_string(
    "checkpoint_every",
    None,
    'Save each fit that often: "500 steps", "2 epochs" or "600 seconds". After a kill the same command with the same --logdir '
    "goes on, and ends with the same bits. Default: never.",
)
RESUME = flags.DEFINE_enum(
    "resume",
    "auto",
    RESUMES,
    "With --checkpoint_every, whether to go on from what --logdir holds: if there is something, must, never; or, by force, "
    "also where flags or versions differ.",
)
SWEEP = flags.DEFINE_string(
    "sweep",
    None,
    'Do a run for each combination of flags\' values, below --logdir: "learning_rate=1e-3,1e-2;seed=0..9"; '
    '"zip(epochs=1,10;learning_rate=1e-2,1e-3)" for pairs. The same command with the same --logdir does what is missing.',
)
JOBS = flags.DEFINE_integer("jobs", 1, "With --sweep, how many runs at a time, each a process.", lower_bound=1)
PRINT_COMMANDS = flags.DEFINE_bool(
    "print_commands",
    False,
    "With --sweep, do no run, but print a command for each that is missing: for a cluster's scheduler.",
)
HPARAMS = flags.DEFINE_list(
    "hparams",
    None,
    "Flags to put into TensorBoard's HParams table, with the result's numbers. A sweep puts those there that it sweeps.",
)


def _is_interval(every: str | None) -> bool:
    try:
        return every is None or bool(Checkpoint("", every))
    except ValueError as error:
        raise flags.ValidationError(str(error)) from error


flags.register_validator("checkpoint_every", _is_interval)

COMMON = (LOGDIR, SEED, DETERMINISTIC, VERBOSE, CHECKPOINT_EVERY, RESUME, SWEEP, JOBS, PRINT_COMMANDS, HPARAMS)
OF_THE_SWEEP = (
    "sweep",
    "jobs",
    "print_commands",
    "hparams",
    "logdir",
    "flagfile",
)  # which its runs don't have, or have their own
NOT_IN_FLAGFILE = ("logdir", "flagfile", "resume", "sweep", "jobs", "print_commands")  # a relaunch gets a directory of its own
NOT_SWEPT = (*OF_THE_SWEEP, "resume", "checkpoint_every", "verbose")
