"""Writes PARITY.md: `python -m benchmarks.parity.table NEWEST.json OLDEST.json ...`, from what `--json` wrote.

Results of one version and device are joined, later ones taking the place of earlier: a case can be run again alone.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.parity import CASES, cluster
from benchmarks.parity.comparison import Row

PARITY = pathlib.Path(__file__).parent.parent.parent / "PARITY.md"

HEAD = """# Parity with `model.fit`

Each row is one feature of fit. A small model is trained by `model.fit`, by `model.fit` again, and by `fitcore.fit`, from the
same seed. **yes**: all weights, random states, optimizer variables, every value of the History and whatever else the row names
(files, events, calls) are equal to the last bit, and Keras repeats itself. "with op determinism": Keras repeats itself only
with `tf.config.experimental.enable_op_determinism()`, which was on for both.

This file is written by a command, never by hand:

```sh
python -m benchmarks.parity --json newest.json    # in an environment with the newest Keras
python -m benchmarks.parity --json oldest.json    # in one with the oldest
python -m benchmarks.parity.table newest.json oldest.json
```

A run may be cut into parts with `--case`; the files of one version are joined, the last to name a case holding. The last
section, on bad calls, is written by commands of its own, which leave the rest alone, as these leave that section:

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

## What can't be compared
- Training without a global seed, with `shuffle=True` or dropout: Keras doesn't repeat itself.
- On a GPU without op determinism Keras doesn't repeat itself in many models; the command then runs these with it.
- `fitcore.Reshuffle`, `fitcore.Engine` of explicit parts, hooks that stop or set: Keras has nothing like them.
- Times, and what is printed: the progress bar is redrawn when the compiled loop returns, not after each batch, and
  `verbose="auto"` shows none in a pipe.
"""


# (theme, feature) of every case, in the table's order
LISTED = {name: (case.theme, case.text) for name, case in CASES.items()} | {
    name: (f"MultiWorkerMirroredStrategy, {cluster.WORKERS} processes", (build.__doc__ or "").splitlines()[0].rstrip("."))
    for name, build in cluster.WAYS.items()
}


def parity_table(results: Sequence[dict[str, Any]]) -> str:
    """PARITY.md for results as `--json` writes them.

    Raises:
      ValueError: if the results of a version lack a case.
    """
    joined: dict[str, dict[str, Any]] = {}
    for result in results:
        before = joined.setdefault(str((result["versions"], result["device"])), result)
        joined[str((result["versions"], result["device"]))] = result | {"rows": before["rows"] + result["rows"]}
    results = list(joined.values())
    rows = []
    for result in results:
        named = {row["case"]: Row(**row) for row in result["rows"] if row["case"] in LISTED}
        if named.keys() != LISTED.keys():
            missing = sorted(LISTED.keys() - named.keys())
            raise ValueError(f"Results must hold every case. Missing for {result['versions']}: {missing}")
        rows.append(named)
    lines = [
        HEAD,
        "| run | Keras | TensorFlow | NumPy | Python | device | date | bit-identical |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for i, (result, named) in enumerate(zip(results, rows)):
        versions = [result["versions"][name] for name in ("keras", "tensorflow", "numpy", "python")]
        skipped = sum(row.skipped for row in named.values())
        count = f"{sum(row.identical for row in named.values())} of {len(named) - skipped}"
        count += f", {skipped} impossible there" if skipped else ""
        lines.append(f"| {i + 1} | {' | '.join(versions)} | {result['device']} | {result['date']} | {count} |")
    heading = None
    for name, (theme, feature) in LISTED.items():
        if theme != heading:
            heading = theme
            heads = [f"Keras {result['versions']['keras']}" for result in results]
            lines += ["", f"## {theme}", f"| feature | case | {' | '.join(heads)} |", "|---|---" + "|---" * len(heads) + "|"]
        cells = [verdict(named[name]).replace("|", "\\|") for named in rows]
        lines.append(f"| {feature} | `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" + TAIL


def bad_calls_section(text: str) -> str:
    """The section on bad calls, with which a PARITY.md ends; empty if it has none."""
    _, heading, rest = text.partition(BAD_CALLS)
    return heading + rest


def verdict(row: Row) -> str:
    """What a cell says: the verdict, with the largest differences if there are any."""
    if row.verdict == "NO":
        return f"**no**: weights differ by up to {row.weights:.2g}, optimizer {row.optimizer:.2g}, History {row.history:.2g}"
    return row.verdict + (", with op determinism" if row.op_determinism else "")


if __name__ == "__main__":
    written = parity_table([json.loads(pathlib.Path(name).read_text()) for name in sys.argv[1:]])
    PARITY.write_text(written + bad_calls_section(PARITY.read_text()))
