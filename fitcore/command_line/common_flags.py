"""The flags that every experiment has."""

from __future__ import annotations

from absl import flags

from fitcore.checkpoint import Checkpoint
from fitcore.checkpoint.config import RESUME as RESUMES
from fitcore.command_line import profile

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
DEVICE = flags.DEFINE_enum(
    "device", "auto", ["auto", "cpu", "gpu"], "auto: a GPU if there is one; cpu: none; gpu: refuse to do without."
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Say what the first fit would do (fitcore.explain) and stop there: no step, no directory."
)
PROFILE = flags.DEFINE_string(
    "profile",
    None,
    "FIRST:LAST, in steps: write TensorFlow's profile of these for TensorBoard's Profile tab, of the first fit among those in "
    "history.json that gets so far. Default: none.",
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


def _is_profile(steps: str | None) -> bool:
    try:
        return steps is None or bool(profile.parse(steps))
    except ValueError as error:
        raise flags.ValidationError(str(error)) from error


flags.register_validator("checkpoint_every", _is_interval)
flags.register_validator("profile", _is_profile)

COMMON = (
    *(LOGDIR, SEED, DETERMINISTIC, DEVICE, VERBOSE, CHECKPOINT_EVERY, RESUME, DRY_RUN, PROFILE),
    *(SWEEP, JOBS, PRINT_COMMANDS, HPARAMS),
)
_OF_ONE_START = ("flagfile", "resume", "sweep", "jobs", "print_commands", "dry_run")
NOT_IN_FLAGFILE = ("logdir", *_OF_ONE_START)  # a relaunch gets a directory of its own
OF_THE_SWEEP = ("logdir", "flagfile", "sweep", "jobs", "print_commands", "hparams")  # its runs have none, or their own
NOT_SWEPT = ("logdir", *_OF_ONE_START, "hparams", "checkpoint_every", "verbose", "profile")
