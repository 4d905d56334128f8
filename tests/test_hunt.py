"""The hunt: what it draws, that it finds what is planted, makes it small, and prints it as a program that shows it."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import fitcore
from benchmarks.hunt import __main__ as command
from benchmarks.hunt import case as cases
from benchmarks.hunt.case import Case, Input, Node, Output
from benchmarks.hunt.child import smallest
from benchmarks.hunt.choices import ACTIVATIONS, LOSSES, METRICS, NO_LOSSES, NO_METRICS, OPTIMIZERS
from benchmarks.hunt.draw import draw, settled
from benchmarks.hunt.grow import SHAPES, UNFIT, Model, Unfit
from benchmarks.hunt.known import kind_of, known_as
from benchmarks.hunt.layers import CUSTOM, LAYERS, LEFT_OUT
from benchmarks.hunt.script import namespace, program, script
from benchmarks.hunt.shrink import shrunk
from benchmarks.hunt.trial import Result, judge

ROOT = Path(__file__).parent.parent
SMALL = Case(
    inputs=(Input((4,)),),
    nodes=(
        Node("Dense", "layers.Dense(5, activation='relu', kernel_regularizer='l2')", (0,)),
        Node("LayerNormalization", "layers.LayerNormalization(epsilon=1e-4)", (1,)),
        Node("Dropout", "layers.Dropout(0.3, seed=5)", (2,)),
        Node("Add", "layers.Add()", (1, 3), "list"),
        Node("Dense", "layers.Dense(1)", (4,)),
    ),
    outputs=(Output(5, "number", "'mse'", metrics=("'mae'",)),),
    compile={"optimizer": "keras.optimizers.SGD(0.05, momentum=0.9)"},
    rows=10,
    fit={"epochs": "2", "shuffle": "False"},
    callbacks=("SeesEpochs()", "StopsIn('on_epoch_end', 2)"),
    validation="split",
)


# --- what is drawn --------------------------------------------------------------------------------------------------------


def test_every_layer_that_keras_exports_is_drawn_or_left_out_with_a_reason():
    aliases: dict[int, set[str]] = {}
    for name, each in vars(keras.layers).items():
        if name[0].isupper():
            aliases.setdefault(id(each), set()).add(name)
    assert [names for names in aliases.values() if not names & (set(LAYERS) | set(LEFT_OUT))] == []
    assert set(LAYERS) & set(LEFT_OUT) == set()
    assert [name for name in LEFT_OUT if not hasattr(keras.layers, name)] == []
    assert min(map(len, LEFT_OUT.values())) > 5


def makes(name: str, seed: int) -> BaseException | None:
    """What Keras says against a layer of the table with the arguments that this seed draws."""
    kind, model = (LAYERS | CUSTOM)[name], Model(random.Random(seed))
    shape = {"tokens": (5,), "texts": (1,)}.get(kind.inputs) or SHAPES[int(kind.ranks[seed % len(kind.ranks)])]
    dtype = {"floats": None, "tokens": "int32", "texts": "string"}[kind.inputs]
    model.inputs, model.tensors = [Input(shape, kind.inputs)], [keras.Input(shape, dtype=dtype)]
    text = f"{'layers.' if name in LAYERS else ''}{name}({', '.join(model._arguments(kind, shape))})"
    try:
        model._add(Node(name, text, (0,) if kind.takes == "one" else (0, 0), kind.takes))
    except (Unfit, *UNFIT) as error:
        return error
    return None


def test_each_layer_of_the_table_can_be_made():
    """With what it may be given: a line that Keras always refuses would never be drawn, and nobody would know."""
    there = [name for name in (*LAYERS, *CUSTOM) if name in CUSTOM or hasattr(keras.layers, name)]
    assert {name: repr(makes(name, 39)) for name in there if all(makes(name, seed) is not None for seed in range(40))} == {}


def test_every_activation_and_optimizer_of_keras_is_drawn():
    flat = " ".join(ACTIVATIONS)
    activations = {name for name in dir(keras.activations) if name[0] != "_"} - {"get", "serialize", "deserialize", "glu"}
    assert [name for name in activations if name not in flat] == []
    not_drawn = {
        "LossScaleOptimizer",
        "MultiOptimizer",
        "Optimizer",
        "OptimizerMap",
    }  # the first by a wrapper, the others are no rules
    assert {name for name in dir(keras.optimizers) if name[0].isupper()} - not_drawn <= set(OPTIMIZERS)


@pytest.mark.parametrize(
    ("module", "table", "left_out"), [(keras.losses, LOSSES, NO_LOSSES), (keras.metrics, METRICS, NO_METRICS)]
)
def test_every_loss_and_metric_of_keras_is_drawn_or_left_out_with_a_reason(module: Any, table: Any, left_out: Any) -> None:
    short = {"mse": "MeanSquaredError", "mae": "MeanAbsoluteError", "mape": "MeanAbsolutePercentageError"}
    short |= {"msle": "MeanSquaredLogarithmicError", "kl_divergence": "KLDivergence"}
    names = {
        re.split(r"[.(]", each.removeprefix("keras.metrics.").removeprefix("keras.losses."))[0].strip("'")
        for every in table.values()
        for each in every
    }
    drawn = {short.get(name, name).replace("_", "").lower() for name in names}
    exported = [name for name in dir(module) if name[0].isupper()]
    assert [name for name in exported if name.lower() not in drawn and name not in left_out] == []
    assert [name for name in left_out if name not in exported or name.lower() in drawn] == []


def test_what_a_model_is_given_by_name_and_recurrent_layers_that_keep_their_state_are_drawn() -> None:
    drawn = [draw(7, i) for i in range(250)]
    assert any(each.named for each in drawn)
    stateful = [each for each in drawn if "stateful=True" in repr(each.nodes)]
    assert stateful
    assert all(each.rows % each.batch == 0 and each.form != "subclassed" for each in stateful)


def test_a_model_of_a_dict_and_one_that_keeps_its_state_are_trained() -> None:
    recurrent = (Node("LSTM", "layers.LSTM(2, stateful=True)", (0,)), Node("Dense", "layers.Dense(1)", (1,)))
    case = dataclasses.replace(SMALL, inputs=(Input((3, 2)),), nodes=recurrent, outputs=(Output(2, "number", "'mse'"),))
    case = dataclasses.replace(case, rows=8, validation="", callbacks=())
    assert verdicts(case) == {"exact": "same"}
    for form in ("functional", "subclassed"):
        assert verdicts(dataclasses.replace(SMALL, named=True, form=form)) == {"exact": "same"}


def test_a_failure_of_a_known_kind_is_not_shrunk_again() -> None:
    small = dataclasses.replace(
        SMALL, nodes=SMALL.nodes[1:2], outputs=(Output(1, "number", "'mse'"),), callbacks=(), validation="", variants=("exact",)
    )
    small = dataclasses.replace(small, compile={"optimizer": "'sgd'"})
    differs, raises = Result("exact", "differs", "3 differ: a by 0.1"), Result("exact", "raises", "ValueError: 3 of 4")
    known = [kind_of(4, small, differs), kind_of(9, small, raises)]
    assert known_as(SMALL, Result("exact", "differs", "1 differ: b by 2"), known) is known[0]  # it has that layer too
    assert known_as(SMALL, Result("cut", "differs", "3 differ: a by 0.1"), known) is None
    without = dataclasses.replace(SMALL, nodes=SMALL.nodes[:1])
    assert known_as(without, differs, known) is None
    assert known_as(without, Result("exact", "raises", "ValueError: 5 of 6"), known) is known[1]  # says the same
    assert known_as(SMALL, Result("exact", "raises", "TypeError: 3 of 4"), known) is None


def test_a_case_is_a_function_of_seed_and_index():
    drawn = [draw(7, i) for i in range(12)]
    assert drawn == [draw(7, i) for i in range(12)]
    assert len({each.to_json() for each in drawn} | {draw(8, 0).to_json()}) == 13
    assert [cases.of_json(each.to_json()) for each in drawn] == drawn
    assert {theme for each in drawn for theme, _ in each.kinds()} >= {
        "layer",
        "activation",
        "optimizer",
        "loss",
        "source",
        "form",
    }


# --- what is found --------------------------------------------------------------------------------------------------------


class Planted:
    """fitcore, but for one unit in the last place of the scale of each LayerNormalization, in fits that have this argument."""

    def __init__(self, argument: str | None = None, by: float = 0.0) -> None:
        self._argument, self._by = argument, by

    def fit(self, model: Any, **given: Any) -> Any:
        history = fitcore.fit(model, **given)
        for layer in model.layers:
            if isinstance(layer, keras.layers.LayerNormalization) and (self._argument is None or self._argument in given):
                scale = layer.gamma.numpy()
                layer.gamma.assign(np.nextafter(scale, np.float32(9.0)) + np.float32(self._by))
        return history

    def evaluate(self, model: Any, **given: Any) -> Any:
        return fitcore.evaluate(model, **given)


def verdicts(case: Case, by: Any = fitcore) -> dict[str, str]:
    return {each.variant: each.verdict for each in judge(namespace(settled(case)), case.variants, by)}


@pytest.mark.slow
def test_a_fault_in_one_variant_is_found_there_and_nowhere_else():
    case = dataclasses.replace(SMALL, variants=("exact", "noise", "records", "cut", "fast graph"))
    assert set(verdicts(case).values()) == {"same"}
    for variant, argument in {"noise": "noise", "records": "record", "cut": "checkpoint", "fast graph": "numerics"}.items():
        found = verdicts(case, Planted(argument, 1e-3))
        assert found == {each: "differs" if each == variant else "same" for each in case.variants}


def test_what_keras_does_not_repeat_or_refuses_is_no_failure():
    unlike = dataclasses.replace(SMALL, spoiled="x0[:] = np.random.default_rng().normal(size=x0.shape)")
    assert verdicts(unlike) == {"Keras": "unlike itself"}
    refused = dataclasses.replace(SMALL, outputs=(dataclasses.replace(SMALL.outputs[0], loss="'no loss'"),))
    assert verdicts(refused) == {"Keras": "invalid"}


def test_a_failure_is_made_as_small_as_it_can_be():
    """Everything goes but the layer that is to blame."""

    def fails(case: Case) -> bool:
        return any(node.kind == "LayerNormalization" for node in case.nodes) and case.rows > 4

    small = shrunk(settled(SMALL), fails)
    assert [node.layer for node in small.nodes] == ["layers.LayerNormalization()"]
    assert (small.callbacks, small.validation, small.rows, small.outputs[0].metrics) == ((), "", 5, ())
    assert small.compile == {"optimizer": "'sgd'"}
    assert small.fit == {"epochs": "1"}
    assert small.outputs[0].shape == (4,)  # the target's shape follows


def test_shrinking_keeps_the_weights_of_a_shared_layer_and_of_a_tied_one():
    nodes = (
        Node("Dense", "layers.Dense(4)", (0,)),
        Node("ReLU", "layers.ReLU()", (1,)),
        Node("Dense", "", (2,), again=0),
        Node("Tied", "Tied(l0)", (3,)),
    )
    case = settled(dataclasses.replace(SMALL, nodes=nodes, outputs=(Output(4, "number", "'mse'"),)))
    small = shrunk(case, lambda smaller: any(node.again is not None for node in smaller.nodes))
    assert [(node.kind, node.again) for node in small.nodes] == [("Dense", None), ("Dense", 0)]
    small = shrunk(case, lambda smaller: any(node.kind == "Tied" for node in smaller.nodes))
    assert [node.kind for node in small.nodes] == ["Dense", "Tied"]
    small = shrunk(case, lambda smaller: any(node.takes == (1,) and node.kind == "Dense" for node in smaller.nodes))
    assert [node.kind for node in small.nodes] == ["Dense", "Dense"]


def test_a_regularizer_of_that_name_is_no_layer() -> None:
    """A subclassed model's layers are attributes; 'l2' stays as it is, in a smaller case too."""
    nodes = (
        Node("ReLU", "layers.ReLU()", (0,)),
        Node("Dense", "layers.Dense(4, kernel_regularizer='l2')", (1,)),
        Node("ActivityRegularization", "layers.ActivityRegularization(l1=0.1)", (2,)),
        Node("Tied", "Tied(l1)", (3,)),
    )
    case = settled(dataclasses.replace(SMALL, nodes=nodes, outputs=(Output(4, "number", "'mse'"),), form="subclassed"))
    assert "self.l1 = layers.Dense(4, kernel_regularizer='l2')" in program(case)
    assert "self.l2 = layers.ActivityRegularization(l1=0.1)" in program(case)
    small = shrunk(case, lambda smaller: "'l2'" in repr(smaller.nodes) and "Tied" in repr(smaller.nodes))
    assert [node.layer for node in small.nodes] == ["layers.Dense(4, kernel_regularizer='l2')", "Tied(l0)"]


def test_shrinking_ends_with_its_time():
    start = time.monotonic()
    assert shrunk(settled(SMALL), lambda case: True, seconds=0.0).nodes == SMALL.nodes
    assert time.monotonic() - start < 5


@pytest.mark.slow
def test_a_planted_fault_is_found_and_shrunk_to_the_guilty_layer(tmp_path):
    case = settled(dataclasses.replace(SMALL, variants=("exact", "hooks")))
    failed = [each for each in judge(namespace(case), case.variants, Planted()) if each.verdict == "differs"]
    assert [each.variant for each in failed] == ["exact", "hooks"]
    small, how = smallest(case, failed[0], 60.0, Planted())
    assert [node.kind for node in small.nodes] == ["LayerNormalization"]
    assert "layer_normalization/gamma by" in how.says
    healthy = script(small, command.SETTINGS[3], "Healthy.")
    ill = healthy.replace("import fitcore\n", "import fitcore\nfrom test_hunt import Planted\n", 1)
    ill = ill.replace("by: Any = fitcore", "by: Any = Planted()")
    for text, status, says in ((healthy, 0, "exact: same"), (ill, 1, "layer_normalization/gamma by")):
        (tmp_path / "script.py").write_text(text)
        assert "benchmarks" not in text.split("import fitcore\n")[1].split("# --- how it is judged")[0]
        done = subprocess.run(
            [sys.executable, tmp_path / "script.py"],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "FITCORE_CACHE": str(tmp_path / "plans.json")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr[-2000:]
        assert says in done.stdout


# --- processes ------------------------------------------------------------------------------------------------------------

DONE = [{"variant": "exact", "verdict": "same", "says": ""}]


def child_that(behaves: dict[int, str], monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Puts in the place of each child one that trains nothing. Returns the indices of each, as they are started."""
    given: list[list[int]] = []

    def started(indices: list[int], seed: int, *_: Any) -> subprocess.Popen[str]:
        given.append(list(indices))
        lines = ["import os, time"]
        for index in indices:
            lines.append(f"print('HUNT ' + {json.dumps({'begin': index})!r}, flush=True)")
            lines.append(behaves.get(index, ""))
            for said in ({"index": index, "results": DONE, "kinds": [["layer", "Dense"]]}, {"end": index}):
                lines.append(f"print('HUNT ' + {json.dumps(said)!r}, flush=True)")
        return subprocess.Popen(
            [sys.executable, "-c", "\n".join(lines)], stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    monkeypatch.setattr(command, "started", started)
    return given


def test_a_process_that_dies_or_hangs_is_a_failure_and_the_hunt_goes_on(monkeypatch, tmp_path):
    block = command.BLOCK
    given = child_that({2: "os._exit(9)", block + 2: "time.sleep(600)"}, monkeypatch)
    count = command.Count()
    command.hunt(1, iter(range(block + 4)), time.monotonic() + 60, tmp_path, 2.0, 0.0, count)
    found = [(each["failure"], each["verdict"]) for each in count.failures]
    assert found == [(2, "ended with 9"), (block + 2, "hangs for 2 s")]
    # one setting for each of them
    ends = [(0, block - 1), (3, block - 1), (block, block + 3), (block + 3, block + 3)]
    assert [(each[0], each[-1]) for each in given] == ends
    assert sum(count.cases.values()) == block + 2
    assert len(count.cases) == 2


def test_it_ends_when_its_time_is_over(monkeypatch, tmp_path):
    child_that(dict.fromkeys(range(1000), "time.sleep(0.3)"), monkeypatch)
    count, start = command.Count(), time.monotonic()
    command.hunt(1, iter(range(1000)), start + 1.5, tmp_path, 5.0, 0.0, count)
    assert time.monotonic() - start < 6
    assert count.failures == []
    assert sum(count.cases.values()) >= 1


def test_status_and_table_say_what_was_found(monkeypatch, capsys, tmp_path):
    for behaves, status in (({}, 0), ({1: "os._exit(9)"}, 1)):
        child_that(behaves, monkeypatch)
        assert command.reported(5, iter(range(3)), time.monotonic() + 60, tmp_path, 5.0, 0.0) == status
    out = capsys.readouterr().out
    assert "layer (1): Dense 3" in out
    assert "hunt: 3 cases, 0 of them Keras doesn't repeat; 0 failures; seed 5" in out
    assert "FAILURE in case 1, process ended with 9" in out


@pytest.mark.slow
def test_the_command_counts_what_it_draws_and_ends_with_the_status_that_it_prints(tmp_path):
    """Of real cases, whatever they are."""
    command_line = [sys.executable, "-m", "benchmarks.hunt", "--cases=4", "--seed=1", f"--out={tmp_path}", "--shrink_seconds=0"]
    done = subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True)
    counted = re.search(r"hunt: (\d+) cases, \d+ of them Keras doesn't repeat; (\d+) failures; seed 1", done.stdout)
    assert counted, done.stdout + done.stderr
    invalid = sum(map(int, re.findall(r"Keras: invalid (\d+)", done.stdout)))
    assert int(counted[1]) + invalid == 4
    assert done.returncode == (int(counted[2]) > 0)
    assert len(list(tmp_path.glob("*.py"))) == int(counted[2])
