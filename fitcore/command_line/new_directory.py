"""Which directory a run gets: a new one, or with --checkpoint_every that of a run to go on with."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

from absl import flags

from fitcore.checkpoint import CheckpointError, Folders
from fitcore.command_line import common_flags
from fitcore.command_line.environment import command, experiment


def directory_of(named: str | None) -> Path:
    """The run's directory: a new one, or with --checkpoint_every that of a run with the same flags, to go on with.

    Exits with a line that names --logdir or --resume where it can't be had.
    """
    resume = common_flags.RESUME.value
    path = None if named is None else Path(named, "flags.txt")
    if path is None or not path.exists():
        if resume == "must":
            sys.exit(f"--resume=must: there is no run to go on with. Received: --logdir={named}")
        return new_directory(named)
    if common_flags.CHECKPOINT_EVERY.value is None or resume == "never":
        return new_directory(named)  # which it refuses
    different = _different_flags(path.read_text(), flagfile())
    if different:
        what = f"--logdir={named}: this holds a run with other flags. {different}."
        if resume != "force":
            sys.exit(f"{what} It goes on only with the same; name another folder for another run.")
        print(f"{what} It goes on all the same, as --resume=force says.", file=sys.stderr)
    return path.parent


def _different_flags(before: str, now: str) -> str:
    """In words, what differs between two flagfiles."""
    lines, own = ([line for line in text.splitlines() if line.startswith("-")] for text in (before, now))
    found = {"There": [line for line in lines if line not in own], "here": [line for line in own if line not in lines]}
    return ", ".join(f"{where}: {' '.join(each) or 'nothing'}" for where, each in found.items()) if lines != own else ""


def folders_in(directory: Path) -> Folders:
    """The folders of the fits' checkpoints; exits where they can't be used."""
    try:
        return Folders(directory, common_flags.CHECKPOINT_EVERY.value, common_flags.RESUME.value, keep=2)
    except (OSError, CheckpointError) as error:
        sys.exit(f"--checkpoint_every={common_flags.CHECKPOINT_EVERY.value}: {error}")


def new_directory(named: str | None) -> Path:
    """Create the run's directory and put its flags there; exits with a line that names --logdir where that can't be done."""
    start = Path("runs", experiment().rpartition(".")[2], time.strftime("%Y-%m-%d_%H-%M-%S"))
    directory = start if named is None else Path(named)
    try:
        if named is None:
            for count in itertools.count(2):
                try:
                    directory.mkdir(parents=True)
                    break
                except FileExistsError:  # another run of this second
                    directory = start.with_name(f"{start.name}_{count}")
        else:
            directory.mkdir(parents=True, exist_ok=True)
        with open(directory / "flags.txt", "x") as file:  # x: fails where there is one
            file.write(flagfile())
    except FileExistsError:
        what = "holds a run already" if directory.is_dir() else "is a file"
        sys.exit(f"--logdir={directory}: this {what}, and nothing is overwritten. Name another folder.")
    except OSError as error:
        sys.exit(f"--logdir={directory}: a run can't be written there: {error.strerror}. Name another folder.")
    return directory


def flagfile() -> str:
    """The experiment's own flags, launch's, and any other that was given, with their values.

    Not absl's `flags_into_string`: that has the flags of everything imported too, which another version may not know.
    """
    known = {flag.name: flag for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])}
    given = {name: flags.FLAGS[name] for name in flags.FLAGS if flags.FLAGS[name].present}
    chosen = {name: flag for name, flag in sorted((known | given).items()) if name not in common_flags.NOT_IN_FLAGFILE}
    lines = [
        f"--{flag.name}={str(flag.value).lower()}" if isinstance(flag.value, bool) else flag.serialize()  # never --noNAME
        for flag in chosen.values()
        if flag.value is not None
    ]
    return "\n".join([f"# {command()} --flagfile=<this file>", *lines, ""])
