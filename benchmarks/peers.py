"""How fast is fitcore beside what one would use in its place?

    python -m benchmarks.peers [--workload=mlp] [--peer=jax_scan] [--rounds=7] [--device=cpu] [--json=FILE]

Trains the same models on the same data by each of these, each in a process of its own, all processes of a workload alive and
taking turns, epoch by epoch, so that what the machine does besides meets them all:

    keras, keras_10, keras_100     model.fit; with steps_per_execution=10 and 100
    keras_xla                      model.fit, compiled by XLA (jit_compile=True)
    tape                           a loop by hand as TensorFlow's guide has it: a tf.function per step, batches by tf.data
    torch, torch_compile           PyTorch, eager and by torch.compile
    jax, jax_scan                  JAX, a compiled step, and a compiled scan over the epoch
    exact, fast                    fitcore.fit, its two tiers
    exact_noise, fast_noise        the same, measuring the gradient noise at each step

Adam, shuffled, data in memory, the running mean of the loss and the accuracy kept; the workload's batch size, mostly 32.
Workloads are those of benchmarks/workloads.py; without `--workload` the first six, which are small. Printed are medians over
the rounds of µs per step, and of how many times as long as fitcore's fast tier each took in the same round. A peer whose
model has another number of parameters, or whose loss after the first epoch is another than Keras's by more than a fifth, is
marked. PyTorch and JAX come with the extra `peers`; one that isn't installed is left out, and said so.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import app, flags

from benchmarks import about
from benchmarks.measuring import in_turn

DEFAULT = ("linear", "mlp", "deep", "lstm", "cnn", "transformer")
NAMES = (*DEFAULT, "resnet", "transformer_large", "autoencoder", "embedding", "mlp_1", "mlp_1024")
PEERS = (
    "keras", "keras_10", "keras_100", "keras_xla", "tape", "torch", "torch_compile", "jax", "jax_scan",
    "exact", "fast", "exact_noise", "fast_noise",
)  # fmt: skip

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("workload", None, NAMES, "Which workload; several may be given. Default: six small ones.")
flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "Where to train.")
flags.DEFINE_multi_enum("peer", None, PEERS, "Which peer besides `fast`; may be given several times. Default: all.")
flags.DEFINE_integer("rounds", 7, "Timed epochs of each peer.", lower_bound=1)
flags.DEFINE_string("json", None, "Write the figures to this file.")
flags.DEFINE_list("serve", None, "PEER,WORKLOAD: train an epoch for each line read. What the processes are started with.")


# --- a peer's process -----------------------------------------------------------------------------------------------------


def _epochs(peer: str, workload: str) -> tuple[int, int, Callable[[], float]]:
    """(parameters, steps per epoch, a function that trains one more epoch and returns its mean loss)."""
    from benchmarks.workloads import WORKLOADS  # TensorFlow isn't for the parent or the others

    made = WORKLOADS[workload]
    x, y = made.data(made.steps * made.batch)
    family, _, how = peer.partition("_")
    if family in ("torch", "jax"):
        module = importlib.import_module(f"benchmarks.peers_{family}")
        parameters, epoch = module.epochs(workload, x, y, made.batch, how, FLAGS.device)
        return parameters, made.steps, epoch
    import keras

    import fitcore

    keras.utils.set_random_seed(1)
    model = made.build()
    parameters = sum(variable.numpy().size for variable in model.trainable_variables)
    arguments: dict[str, Any] = {"batch_size": made.batch, "verbose": 0}
    fit = model.fit
    if family == "tape":
        return parameters, made.steps, _by_tape(model, x, y, made.batch)
    if family in ("exact", "fast"):
        fit = functools.partial(fitcore.fit, model)
        arguments |= {"numerics": family, "noise": how == "noise"}
    elif how == "xla":
        model.jit_compile = True
    elif how:
        model.steps_per_execution = int(how)
    return parameters, made.steps, lambda: fit(x, y, **arguments).history["loss"][0]


def _by_tape(model: Any, x: Any, y: Any, batch: int) -> Callable[[], float]:
    """https://www.tensorflow.org/guide/keras/writing_a_training_loop_from_scratch, with its tf.function."""
    import keras
    import tensorflow as tf

    classes = y.ndim == 1
    loss_of = keras.losses.SparseCategoricalCrossentropy() if classes else keras.losses.MeanSquaredError()
    accuracy, mean = keras.metrics.SparseCategoricalAccuracy(), keras.metrics.Mean()
    optimizer = keras.optimizers.Adam(1e-3)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).batch(batch)

    def step(xb: Any, yb: Any) -> Any:
        with tf.GradientTape() as tape:
            out = model(xb, training=True)
            loss = loss_of(yb, out)
        optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
        mean.update_state(loss)
        if classes:
            accuracy.update_state(yb, out)

    compiled = tf.function(step)

    def epoch() -> float:
        mean.reset_state()
        for xb, yb in batches:
            compiled(xb, yb)
        return float(mean.result())

    return epoch


def serve(peer: str, workload: str) -> None:
    """Train an epoch for each line of the input; answer each with seconds and loss."""
    parameters, steps, epoch = _epochs(peer, workload)
    print(json.dumps({"parameters": parameters, "steps": steps}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        loss = epoch()
        print(json.dumps({"seconds": time.perf_counter() - started, "loss": loss}), flush=True)


# --- the parent -----------------------------------------------------------------------------------------------------------


class Process:
    """A peer's process; it ends with `ends`."""

    def __init__(self, peer: str, workload: str, ends: contextlib.ExitStack) -> None:
        command = [sys.executable, "-m", "benchmarks.peers", f"--serve={peer},{workload}", f"--device={FLAGS.device}"]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        if FLAGS.device == "cpu":
            environment |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self._process = subprocess.Popen(command, env=environment, **pipes)
        ends.callback(self._end)
        self.said = self._read()

    def epoch(self) -> dict[str, float]:
        """Train one: {"seconds", "loss"}."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                said: dict[str, Any] = json.loads(line)
                return said
        raise RuntimeError(f"its process ended with status {self._process.wait()}")

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def alive(workload: str, peers: Sequence[str]) -> Iterator[tuple[dict[str, Process], dict[str, str]]]:
    """The peers' processes, each with two epochs behind it; and why those that failed did."""
    processes: dict[str, Process] = {}
    failed: dict[str, str] = {}
    with contextlib.ExitStack() as ends:
        for peer in peers:
            try:
                process = Process(peer, workload, ends)
                first = process.epoch()  # traces, compiles
                process.said |= {"first_s": first["seconds"], "loss": first["loss"]}
                process.epoch()
            except RuntimeError as error:
                failed[peer] = str(error)
            else:
                processes[peer] = process
        yield processes, failed


def interleaved(processes: Mapping[str, Process], rounds: int) -> dict[str, list[float]]:
    """Seconds of each peer's epoch in each round."""
    return in_turn(list(processes), lambda peer: processes[peer].epoch()["seconds"], rounds)


def measure(workload: str, peers: Sequence[str], rounds: int) -> dict[str, Any]:
    """µs per step of each peer, and ratios to the fast tier's in the same rounds."""
    with alive(workload, peers) as (processes, failed):
        seconds = interleaved(processes, rounds)
        rows = {}
        for peer, process in processes.items():
            ratios = [a / b for a, b in zip(seconds[peer], seconds["fast"])]
            rows[peer] = {
                **process.said,
                "us_per_step": 1e6 * statistics.median(seconds[peer]) / process.said["steps"],
                "times_fast": statistics.median(ratios),
                "times_fast_min": min(ratios),
                "times_fast_max": max(ratios),
            }
        return {"workload": workload, "peers": rows, "failed": failed}


def other_work(row: dict[str, Any], reference: dict[str, Any]) -> str:
    """A mark for a peer that didn't do the same work as Keras: P(arameters), L(oss)."""
    other_loss = not math.isclose(row["loss"], reference["loss"], rel_tol=0.2)
    return "P" * (row["parameters"] != reference["parameters"]) + "L" * other_loss


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    if FLAGS.serve:
        serve(*FLAGS.serve)
        return
    if FLAGS.device == "gpu":
        importlib.import_module("benchmarks.device").use()  # an error if there is none
    asked = [*dict.fromkeys([*(FLAGS.peer or PEERS), "fast"])]
    missing = {each for each in ("torch", "jax") if importlib.util.find_spec(each) is None}
    peers = [peer for peer in asked if peer.partition("_")[0] not in missing]
    for name in sorted(missing):
        print(f"{name} is not installed, so it is left out: pip install '.[peers]'")
    print(f"{os.cpu_count()} cores, {FLAGS.device}; µs per step, medians of {FLAGS.rounds} interleaved rounds")
    print("in brackets how many times as long as fitcore fast; P, L: other parameters, another loss than Keras's")
    names, results = FLAGS.workload or DEFAULT, []
    for name in names:
        result = measure(name, peers, FLAGS.rounds)
        results.append(result)
        rows = result["peers"]
        reference = rows.get("keras", rows["fast"])
        print(f"\n{name}")
        for peer, row in rows.items():
            spread = f"({row['times_fast']:.2f}, {row['times_fast_min']:.2f}-{row['times_fast_max']:.2f})"
            mark = other_work(row, reference)
            print(f"  {peer:14s} {row['us_per_step']:9.1f} {spread:24s} first epoch {row['first_s']:6.2f} s {mark}", flush=True)
        for peer, why in result["failed"].items():
            print(f"  {peer:14s} failed: {why}")
    print("\ngeometric means over these workloads of how many times as long as fitcore fast")
    for peer in peers:
        ratios = [result["peers"][peer]["times_fast"] for result in results if peer in result["peers"]]
        if ratios:
            print(f"  {peer:14s} {math.exp(statistics.fmean(map(math.log, ratios))):6.2f}   ({len(ratios)} workloads)")
    if FLAGS.json:
        about.write(FLAGS.json, "peers", {"rounds": FLAGS.rounds, "results": results}, FLAGS.device)


if __name__ == "__main__":
    app.run(main)
