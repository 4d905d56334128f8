"""Writes PARITY.md: `python -m benchmarks.parity.table NEWEST.json OLDEST.json ...`, from what `--json` wrote.

Results of one version, device and setting of oneDNN are joined, later ones taking the place of earlier: a case can be run again
alone.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.kinds import LEFT_OUT
from benchmarks.parity import CASES, cluster, kinds
from benchmarks.parity.comparison import Row

PARITY = pathlib.Path(__file__).parent.parent.parent / "PARITY.md"

HEAD = """# Parity with `model.fit`

Each row is one feature of fit. A small model is trained by `model.fit`, by `model.fit` again, and by `fitcore.fit`, from the
same seed. **yes**: all weights, random states, optimizer variables, every value of the History and whatever else the row names
(files, events, calls) are equal to the last bit, and Keras repeats itself. "with op determinism": Keras repeats itself only
with `tf.config.experimental.enable_op_determinism()`, which was on for both.

oneDNN is a library of kernels. TensorFlow uses it in place of its own where the CPU has instructions for neural networks, or
where `TF_ENABLE_ONEDNN_OPTS` says so; other kernels have other last bits, and other programs are made of the same model. Each
version of Keras therefore has two columns: with oneDNN on and off.

Rows of Keras's activations, layers, optimizers, losses and metrics, one for each that Keras exports, say three things: the fit
is exact; it is exact with `noise=True`; and with `noise=True` it is exact when it was cut in the middle of an epoch and gone on
from on a new model. What differs is named. Kinds that take the same data are trained in one model, each with weights of its
own. The end of this file says which are left out.

This file is written by a command, never by hand:

```sh
python -m benchmarks.parity --onednn=both --json newest.json    # in an environment with the newest Keras
python -m benchmarks.parity --onednn=both --json oldest.json    # in one with the oldest
python -m benchmarks.parity.table newest.json oldest.json
```

A run may be cut into parts with `--case`; the files of one version and setting are joined, the last to name a case holding. The
last section, on bad calls, is written by commands of its own, which leave the rest alone, as these leave that section:

```sh
python -m benchmarks.bad_calls --json newest-bad-calls.json
python -m benchmarks.bad_calls --json oldest-bad-calls.json
python -m benchmarks.bad_calls.table newest-bad-calls.json oldest-bad-calls.json
```
"""

BAD_CALLS = "\n## Bad calls\n"  # heads the section that benchmarks/bad_calls/table.py writes

TAIL = """
## What Keras runs itself
`fitcore.fit` refuses these with the reason; under `fitcore.patch_keras()` and `python -m fitcore` Keras's own fit runs them,
with a warning, counted (`patch.fallbacks`). They are therefore the same by construction and have no row.

- A model under a `tf.distribute` strategy other than OneDeviceStrategy, MirroredStrategy, MultiWorkerMirroredStrategy and
  CentralStorageStrategy; data that are a `tf.distribute.DistributedDataset` for a model under none.
- A model class that overrides `make_train_function` or `make_test_function`, or a model whose `train_function` or
  `test_function` was replaced: it brings the loop that fitcore would run.
- A model compiled without an optimizer and without a `train_step` of its own: Keras's error is the result.
- `predict` and `predict_on_batch`: fitcore leaves them alone.

## What Keras can't do under a strategy
Seen with Keras 3.15.1 and TensorFlow 2.21, `model.fit` under MirroredStrategy of two replicas; where nothing else is said
`fitcore.fit` ends in the same error.

- A first batch that can't be cut into equal parts: InvalidArgumentError, "Inputs to operation AddN of type AddN must have the
  same size and shape". fitcore trains.
- `steps_per_execution` above 1: InvalidArgumentError, "You must feed a value for placeholder tensor". fitcore trains.
- `gradient_accumulation_steps`, `use_ema` with `ema_overwrite_frequency`: RuntimeError, "Exception encountered when calling
  Cond.call()".
- SparseTensors and RaggedTensors as data: AttributeError, "object has no attribute 'device'".
- A stateful RNN: ValueError, "Exception encountered when calling GRU.call()": a part of a batch is smaller than the batch.
- `jit_compile=True`: InvalidArgumentError.
- A second MirroredStrategy over the same devices in one process: InvalidArgumentError, "Shape mismatch in the collective
  instance", where the shapes of gradients differ from the first one's.
- CentralStorageStrategy: `gradient_accumulation_steps` as above; where several devices compute, layers that keep a state, as
  Dropout and BatchNormalization do: ValueError, "You must specify an aggregation method".
- ParameterServerStrategy: ValueError, "To use this dataset, you need to pass this dataset to
  ClusterCoordinator.create_per_worker_dataset", whatever the data. fitcore refuses. TPUStrategy: not tried, there being none.
- MultiWorkerMirroredStrategy, two processes: ValueError, "Attempt to convert a value (PerReplica...) with an unsupported type",
  before the first step of any fit; and in its step ValueError, "Invalid reduction dimension 0 for input with 0 dimensions", of
  `train_on_batch` too. fitcore trains. What its bits are compared with is Keras's own fit of a model that is made so that
  neither comes up: put together outside the scope from layers made inside, with a `get_metrics_result` that gives vectors,
  compiled and fitted inside (benchmarks/parity/cluster.py). There `steps_per_execution` above 1 fails as under
  MirroredStrategy, and `evaluate` before any training with the first of these errors. fitcore does both.

## What Keras exports and no row trains
LEFT_OUT

## What can't be compared
- Training without a global seed, with `shuffle=True` or dropout: Keras doesn't repeat itself.
- On a GPU without op determinism Keras doesn't repeat itself in many models; the command then runs these with it.
- `fitcore.Reshuffle`, `fitcore.Engine` of explicit parts, hooks that stop or set: Keras has nothing like them.
- Times, and what is printed: the progress bar is redrawn when the compiled loop returns, not after each batch, and
  `verbose="auto"` shows none in a pipe.
""".replace(
    "LEFT_OUT", "\n".join(f"- `{module}.{name}` {why}." for module, names in LEFT_OUT.items() for name, why in names.items())
)


ON_OFF = {"0": "off", "1": "on"}

# (theme, feature) of every case, in the table's order
LISTED = (
    {name: (case.theme, case.text) for name, case in CASES.items()}
    | {
        name: (f"MultiWorkerMirroredStrategy, {cluster.WORKERS} processes", (build.__doc__ or "").splitlines()[0].rstrip("."))
        for name, build in cluster.WAYS.items()
    }
    | {name: (kinds.theme(name), kind.text) for name, kind in kinds.KINDS.items()}
)


def parity_table(results: Sequence[dict[str, Any]]) -> str:
    """PARITY.md for results as `--json` writes them.

    Raises:
      ValueError: if the results of a version lack a case.
    """
    joined: dict[str, dict[str, Any]] = {}
    for result in results:
        key = str((result["versions"], result["device"], result["onednn"]))
        before = joined.setdefault(key, result)
        joined[key] = result | {"rows": before["rows"] + result["rows"]}
    results = list(joined.values())
    rows = []
    for result in results:
        named = {row["case"]: Row(**row) for row in result["rows"] if row["case"] in LISTED}
        if named.keys() != LISTED.keys():
            missing = sorted(LISTED.keys() - named.keys())
            raise ValueError(f"Results must hold every case. Missing for {_head(result)}, {result['versions']}: {missing}")
        rows.append(named)
    lines = [
        HEAD,
        "| run | Keras | TensorFlow | NumPy | Python | device | oneDNN | date | bit-identical |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for i, (result, named) in enumerate(zip(results, rows)):
        versions = [result["versions"][name] for name in ("keras", "tensorflow", "numpy", "python")]
        skipped = sum(row.skipped for row in named.values())
        count = f"{sum(row.identical for row in named.values())} of {len(named) - skipped}"
        count += f", {skipped} impossible there" if skipped else ""
        where = f"{result['device']} | {ON_OFF[result['onednn']]} | {result['date']}"
        lines.append(f"| {i + 1} | {' | '.join(versions)} | {where} | {count} |")
    lines += ["", *_cpus(results)]
    heading = None
    for name, (theme, feature) in LISTED.items():
        if theme != heading:
            heading = theme
            heads = [_head(result) for result in results]
            lines += ["", f"## {theme}", f"| feature | case | {' | '.join(heads)} |", "|---|---" + "|---" * len(heads) + "|"]
        cells = [verdict(named[name]).replace("|", "\\|") for named in rows]
        lines.append(f"| {feature} | `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" + TAIL


def _head(result: dict[str, Any]) -> str:
    return f"Keras {result['versions']['keras']}, oneDNN {ON_OFF[result['onednn']]}"


def _cpus(results: Sequence[dict[str, Any]]) -> list[str]:
    """A paragraph on each CPU."""
    runs: dict[tuple[str, str, str], list[str]] = {}
    for i, result in enumerate(results):
        cpu = result["cpu"]
        key = (cpu["name"] or "unknown", ", ".join(cpu["features"]) or "unknown", ON_OFF[result["onednn_by_default"]])
        runs.setdefault(key, []).append(str(i + 1))
    return [
        f"CPU of run{'s' * (len(numbers) > 1)} {', '.join(numbers)}: {name}. Its features that decide on kernels: {features}. "
        f"TensorFlow's default there: oneDNN {default}."
        for (name, features, default), numbers in runs.items()
    ]


def bad_calls_section(text: str) -> str:
    """The section on bad calls, with which a PARITY.md ends; empty if it has none."""
    _, heading, rest = text.partition(BAD_CALLS)
    return heading + rest


def verdict(row: Row) -> str:
    """What a cell says: the verdict, with the largest differences if there are any."""
    if row.verdict == "NO":
        by = f"weights differ by up to {row.weights:.2g}, optimizer {row.optimizer:.2g}, History {row.history:.2g}"
        return f"**no**{' ' * bool(row.claim)}{row.claim}: {by}"
    claimed = f"{row.claim}: {row.verdict}" if row.claim else row.verdict
    return claimed + (", with op determinism" if row.op_determinism else "")


if __name__ == "__main__":
    written = parity_table([run for name in sys.argv[1:] for run in json.loads(pathlib.Path(name).read_text())])
    PARITY.write_text(written + bad_calls_section(PARITY.read_text()))
