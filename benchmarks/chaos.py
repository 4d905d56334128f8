"""Does a run survive SIGKILL?

    python -m benchmarks.chaos [--kills=100] [--seed=0] [--scenario=arrays] [--device=cpu] [--directory=DIR]

Each scenario trains on real digits in a process of its own that saves itself every 100 steps. It is killed at a moment drawn
from the seed (while it starts, while a checkpoint is being written, or anywhere), started again, and so on until it has
ended; what it ends with is compared, byte for byte, with a run that was left alone: weights, optimizer, History, curves.

    arrays    default shuffle, dropout, validation
    dataset   tf.data with a shuffle buffer
    noise     gradient noise that sets the batch size, and a stopping rule, inside the compiled loop
    script    twenty fits of one epoch in an unmodified script: python -m fitcore --checkpoint_dir=D script.py

Checked besides: a run goes on from the newest checkpoint there was when it was killed, has lost no more than two intervals,
and leaves no temporary file. "Steps computed twice" are those that a process had reported before it was killed and that had
to be computed again. Exits with 1 if anything differs.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from absl import app, flags

from benchmarks import device

EVERY = 100  # steps between checkpoints, as in benchmarks/chaos_run.py
SCENARIOS = ("arrays", "dataset", "noise", "script")
PATIENCE = 300.0  # seconds after which a process counts as hanging
MOMENTS = {"starting": 1, "saving": 4, "anywhere": 5}  # how often each is drawn, of ten kills

ROOT = Path(__file__).parent.parent

FLAGS = flags.FLAGS


@dataclass
class Tally:
    """What happened in a scenario.

    Attributes:
      kills, resumes: processes killed; those that went on from a checkpoint.
      saving: kills that left a checkpoint half written.
      twice: steps computed twice.
      wrong: what is not as it should be, in words.
    """

    kills: int = 0
    resumes: int = 0
    saving: int = 0
    twice: int = 0
    wrong: list[str] = field(default_factory=list)


class Life:
    """One process, from its start to its end or its death, in a folder that it may share with those before it."""

    def __init__(self, scenario: str, directory: Path, saves: bool = True) -> None:
        directory.mkdir(exist_ok=True)
        self.checkpoints, self._progress = directory / "checkpoints", directory / "progress"
        self._progress.touch()
        self._before = self._progress.stat().st_size
        command = [sys.executable, "-m", "benchmarks.chaos_run", scenario, str(directory), *(["checkpoint"] if saves else [])]
        if scenario == "script":
            saving = [f"--checkpoint_dir={self.checkpoints}", f"--checkpoint_every={EVERY} steps"] if saves else []
            script = Path(__file__).with_name("chaos_script.py")
            command = [sys.executable, "-m", "fitcore", *saving, str(script), str(directory)]
        self._output = open(directory / "output", "w+")  # noqa: SIM115 (held until the process has ended)
        # A script finds what lies beside it; this one takes its data from the experiments.
        environment = device.environment()
        environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
        self.process = subprocess.Popen(command, env=environment, stdout=self._output, stderr=subprocess.STDOUT)

    def lines(self) -> list[tuple[int, int]]:
        """(steps done, steps since the line before) of this process's compiled calls."""
        with open(self._progress, "rb") as file:
            file.seek(self._before)
            return [(int(done), int(steps)) for done, steps in (line.split() for line in file.read().splitlines())]

    def computed(self) -> int:
        return sum(steps for _, steps in self.lines())

    def half_written(self) -> bool:
        return any(self.checkpoints.rglob(".writing-*"))

    def wait(self) -> None:
        """Until it has ended.

        Raises:
          RuntimeError: it hangs, or ended with an error.
        """
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = None
        self._output.seek(0)
        output = self._output.read()
        self._output.close()
        if status != 0:
            raise RuntimeError(f"it {'hangs' if status is None else f'ended with status {status}'}:\n{output[-3000:]}")

    def kill_at(self, moment: str, chance: random.Random, startup: float) -> bool:
        """Kill it at such a moment; False if it ended before."""
        begun, steps = time.monotonic(), chance.randrange(6 * EVERY)
        delay = chance.random()

        def is_time() -> bool:
            if moment == "starting":
                return time.monotonic() - begun > delay * startup
            return self.computed() >= steps and (moment == "anywhere" or self.half_written())

        while not is_time():
            if self.process.poll() is not None or time.monotonic() - begun > PATIENCE:
                return False
            time.sleep(0.0005)
        if moment != "starting":
            time.sleep(0.01 * delay)
        self.process.kill()
        self.process.wait()
        self._output.close()
        return True


def newest(checkpoints: Path) -> int | None:
    """The step of the newest checkpoint in a folder, None without one."""
    names = sorted(path.parent.name for path in checkpoints.glob("*-step-*/manifest.json"))
    return int(names[-1].rpartition("-")[2]) if names else None


def torment(scenario: str, kills: int, chance: random.Random, folder: Path) -> Tally:
    """Kill a scenario's runs so many times, and compare each that gets to its end with one left alone."""
    tally = Tally()
    plain = Life(scenario, folder / "plain", saves=False)
    begun = time.monotonic()
    while not plain.lines() and plain.process.poll() is None:
        time.sleep(0.01)
    startup = time.monotonic() - begun
    plain.wait()
    expected = json.loads((folder / "plain" / "result.json").read_text())
    runs = 0
    while tally.kills < kills or runs == 0:
        directory = folder / str(runs)
        runs += 1
        computed, reached = 0, 0
        while True:
            saved = newest(directory / "checkpoints")
            life = Life(scenario, directory)
            killed = False
            if tally.kills < kills:
                killed = life.kill_at(chance.choices(list(MOMENTS), list(MOMENTS.values()))[0], chance, startup)
            if not killed:
                life.wait()
            lines = life.lines()
            if lines:
                tally.resumes += reached > 0 and lines[0][0] - lines[0][1] > 0
                _check_start(tally, scenario, lines[0][0] - lines[0][1], saved, reached)
                computed, reached = computed + life.computed(), lines[-1][0]
            if not killed:
                break
            tally.kills += 1
            tally.saving += life.half_written()
        tally.twice += computed - plain.computed()
        if list(directory.rglob(".writing-*")):
            tally.wrong.append("a temporary file is left")
        result = json.loads((directory / "result.json").read_text())
        differing = [name for name in {**expected, **result} if expected.get(name) != result.get(name)]
        if differing:
            tally.wrong.append(f"other bits: {', '.join(differing[:5])}")
    return tally


def _check_start(tally: Tally, scenario: str, start: int, saved: int | None, reached: int) -> None:
    if scenario != "script" and start != (saved or 0):  # a script has a folder for each fit
        tally.wrong.append(f"began at step {start}, with a checkpoint of step {saved}")
    if reached - start > 2 * EVERY:
        tally.wrong.append(f"began at step {start} after step {reached} had been reached")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    device.environment()  # an error if there is no such device
    names = FLAGS.scenario or SCENARIOS
    tallies = []
    with tempfile.TemporaryDirectory() as temporary:
        for i, name in enumerate(names):
            kills = FLAGS.kills * (i + 1) // len(names) - FLAGS.kills * i // len(names)
            folder = Path(FLAGS.directory or temporary) / name
            folder.mkdir(parents=True)
            begun = time.monotonic()
            try:
                tally = torment(name, kills, random.Random(f"{FLAGS.seed} {name}"), folder)
            except RuntimeError as error:
                tally = Tally(wrong=[str(error)])
            tallies.append(tally)
            words = "; ".join(tally.wrong) or "the same bits"
            print(
                f"{name:8s} {tally.kills} kills, {tally.saving} of them while a checkpoint was written, "
                f"{tally.resumes} resumes, {tally.twice} steps twice, {time.monotonic() - begun:.0f} s: {words}",
                flush=True,
            )
    wrong = any(tally.wrong for tally in tallies)
    kills, resumes, twice = (sum(getattr(tally, name) for tally in tallies) for name in ("kills", "resumes", "twice"))
    print(f"chaos: {kills} kills, {resumes} resumes, bit-identical: {'no' if wrong else 'yes'}, steps computed twice: {twice}")
    sys.exit(wrong)


if __name__ == "__main__":
    device.define()
    flags.DEFINE_integer("kills", 100, "How many processes to kill, shared out among the scenarios.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the moments.")
    flags.DEFINE_multi_enum("scenario", None, list(SCENARIOS), "Which scenario; may be given several times. Default: all.")
    flags.DEFINE_string("directory", None, "A new folder to keep the runs in. Default: a temporary one.")
    app.run(main)
