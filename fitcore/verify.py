"""Launch a recorded run again and compare: is every step, every variable and every result the same to the last bit?

    python -m fitcore.verify runs/digits/2026-11-25_10-00-00
    python -m fitcore.verify RUN_DIR --into DIR             # keeps the second run

The run is launched from its flags.txt, in the current folder, into a new directory. Compared are, for each fit by its name,
what was recorded per step, the digests of all variables per epoch, and the History; then result.json without measured times,
which are what has "seconds" in its name or says that it is "timed". Steps and epochs count from 0, as in history.json. What the
bits may depend on and is not as it was (versions, machine, git commit) is said first. The last line is one of

    verify: identical
    verify: differs: FIT: step 1234, step/loss 0.123 (recorded) and 0.124 (now); variable dense/kernel from epoch 3 on

and the exit status 0 or 1; it is 2 if the run can't be verified, because it has not finished or can't be launched.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fitcore.checkpoint import fingerprint
from fitcore.command_line.differences import Difference, in_fit, in_result, leaves
from fitcore.command_line.environment import surroundings
from fitcore.command_line.launch import INTERRUPTED

IDENTICAL, DIFFERS, CANNOT = 0, 1, 2  # exit status
FILES = ("flags.txt", "environment.json", "history.json", "result.json")  # of a run that has finished
RUNS = ("recorded", "now")  # what the two are called


class CannotVerifyError(Exception):
    """A run can't be launched again, or leaves nothing to compare."""


def compare(recorded: Path, again: Path) -> list[Difference]:
    """Where two finished runs' directories differ: fits in their order, then result.json. Empty if all bits are the same.

    Raises:
      CannotVerifyError: a file is missing or can't be read, or neither run recorded anything.
    """
    before, now = (_load(path / "history.json") for path in (recorded, again))
    result_before, result_now = (dict(leaves(_load(path / "result.json"))) for path in (recorded, again))
    if not before and not now and not result_before and not result_now:
        raise CannotVerifyError(f"{recorded}: the run recorded no fit (RunDirectory.history) and returned no result")
    found = [in_fit(name, before.get(name), now.get(name), RUNS) for name in {**before, **now}]
    return [each for each in (*found, in_result(result_before, result_now, RUNS)) if each is not None]


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CannotVerifyError(f"{path} can't be read: {error}") from error


# --- launching ---------------------------------------------------------------------------------------------------------------


def program(environment: Mapping[str, Any]) -> list[str]:
    """What of a recorded command line comes before the experiment's flags, the interpreter left out: ["-m", module], [script].

    Raises:
      CannotVerifyError: module or script can't be found from the current folder.
    """
    experiment, arguments = environment["experiment"], shlex.split(environment["command"])[1:]
    here = f"The run was launched by: {environment['command']}. Start this from the folder that it was started from"
    options: list[str] = []
    while arguments and arguments[0].startswith("-"):
        options.append(arguments.pop(0))
        if options[-1] in ("-W", "-X", "--check-hash-based-pycs") and arguments:
            options.append(arguments.pop(0))
        elif module := re.match("-[A-VYZa-z]*m", options[-1]):  # -m NAME, -mNAME, -um NAME
            try:
                if importlib.util.find_spec(experiment) is None:
                    raise ImportError("there is no such module")
            except ImportError as error:
                raise CannotVerifyError(f"the experiment {experiment} can't be imported: {error}. {here}") from error
            return [*options[:-1], module[0], experiment]
    if not arguments or not Path(arguments[0]).is_file():
        raise CannotVerifyError(f"the experiment's script {arguments[0] if arguments else experiment} isn't there. {here}")
    return [*options, arguments[0]]


def check_finished(directory: Path) -> None:
    """Refuse what is no finished run.

    Raises:
      CannotVerifyError: it isn't; says what is missing.
    """
    if not directory.is_dir():
        raise CannotVerifyError(f"{directory} is no directory")
    for name in FILES:
        if not (directory / name).is_file():
            why = "the run has not finished" if name == "result.json" else "this is not the directory of a run"
            raise CannotVerifyError(f"{directory} holds no {name}: {why}")


def launch_again(recorded: Path, into: Path) -> None:
    """Do a recorded run once more, into a new directory.

    Raises:
      CannotVerifyError: it can't be launched, or did not finish; ends with what it printed last.
    """
    flags = [f"--flagfile={recorded.absolute() / 'flags.txt'}", f"--logdir={into.absolute()}"]
    command = [sys.executable, *program(_load(recorded / "environment.json")), *flags]
    print(f"Launching {shlex.join(command)}", flush=True)
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if not (into / "result.json").is_file():
        last = "".join(done.stdout.splitlines(keepends=True)[-25:])
        raise CannotVerifyError(f"launched again, the run did not finish: exit status {done.returncode}\n{last}")
    print(f"It took {time.monotonic() - start:.1f} s")


def changed_surroundings(environment: Mapping[str, Any]) -> list[str]:
    """What the bits may depend on and is not, or perhaps not, as it was, in words."""
    here = surroundings()
    found = fingerprint.differences({name: environment.get(name) for name in here}, here)
    if str(here["git_commit"]).endswith("-dirty") and environment.get("git_commit") == here["git_commit"]:
        found.append("`git_commit` is the same, with changes that are not committed and may be others now")
    if environment.get("deterministic") is False:
        found.append("the run was launched with --nodeterministic")
    return found


def verify(recorded: Path, into: Path | None) -> list[Difference]:
    """Launch a recorded run again, print an account, and return where it differs.

    Args:
      recorded: the run's directory.
      into: the second run's, new or empty; None: a temporary one.

    Raises:
      CannotVerifyError: there is no such run, or it can't be launched again.
    """
    check_finished(recorded)
    if into is not None and into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise CannotVerifyError(f"--into {into}: nothing is overwritten. Name a new folder")
    environment = _load(recorded / "environment.json")
    for change in changed_surroundings(environment):
        print(f"The bits may differ: {change}")
    with tempfile.TemporaryDirectory(prefix="fitcore-verify-") as temporary:
        again = Path(temporary, "run") if into is None else into
        launch_again(recorded, again)
        found = compare(recorded, again)
    different = {each.place: each.says for each in found}
    for name, fit in _load(recorded / "history.json").items():
        variables = f"{len(fit['digests'])} variables" if "digests" in fit else "no digests of variables"
        extent = f"{max(map(len, fit['steps'].values()), default=0)} steps recorded, {len(fit['epoch'])} epochs, {variables}"
        print(f"  {name} ({extent}): {different.pop(name, 'identical')}")
    different.setdefault("result.json", "identical, measured times left out")
    for place, says in different.items():
        print(f"  {place}: {says}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fitcore.verify", description=__doc__.split("\n", 1)[0])
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the directory of a finished run")
    parser.add_argument("--into", metavar="DIR", type=Path, help="keep the second run there; default: a temporary directory")
    options = parser.parse_args(arguments)
    try:
        found = verify(options.run_dir, options.into)
    except CannotVerifyError as error:
        print(f"verify: can't be verified: {error}", file=sys.stderr)
        return CANNOT
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    print(f"verify: differs: {found[0].place}: {found[0].says}" if found else "verify: identical")
    return DIFFERS if found else IDENTICAL


if __name__ == "__main__":
    sys.exit(main())
