"""PARITY.md's rows of Keras's activations, layers, optimizers, losses and metrics: none is missing, none is right by chance."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

import fitcore
from benchmarks import kinds as tables
from benchmarks.parity import kinds, table

LISTED = {
    keras.layers: {name for several in tables.LAYERS.values() for name in several},
    keras.activations: set(tables.ACTIVATIONS),
    keras.optimizers: set(tables.OPTIMIZERS),
    keras.losses: {name for several in tables.LOSSES.values() for name in several},
    keras.metrics: {name for several in tables.METRICS.values() for name in several},
}


def short(module: Any) -> str:
    return module.__name__.rpartition(".")[2]


@pytest.mark.parametrize("module", LISTED, ids=short)
def test_nothing_that_keras_exports_is_missing(module: Any) -> None:
    exported, listed, left_out = set(tables.exported(module)), LISTED[module], set(tables.LEFT_OUT[short(module)])
    assert exported - listed == left_out & exported, "each is in a table, or LEFT_OUT says why not"
    assert not listed & left_out
    if not keras.__version__.startswith("3.12."):
        assert listed | left_out == exported, "nothing is listed that there isn't"


def test_functions_without_a_row_belong_to_a_class_with_one() -> None:
    """Losses' functions: compile makes them what the classes are."""
    classes = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in LISTED[keras.losses]}
    classes |= {"kl_divergence", "ctc"}
    functions = {name for name in dir(keras.losses) if name[0].islower() and name not in ("get", "serialize", "deserialize")}
    assert functions <= classes


def test_every_row_has_its_place() -> None:
    """In the table's order those of a theme stand together, under a text of their own."""
    texts = [table.LISTED[name] for name in kinds.KINDS]
    assert len(set(texts)) == len(texts) == sum(map(len, LISTED.values()))
    assert len({theme for theme, _ in texts}) == len(LISTED)


SOME = ["layer_ReLU", "layer_LayerNormalization", "layer_Dense"]


def faulty(path: str, on: str) -> Any:
    """fitcore, but that a fit with an argument `on` leaves the weight `path` next to what it was."""

    def fit(model: keras.Model, **arguments: Any) -> Any:
        history = fitcore.fit(model, **arguments)
        for variable in model.variables:
            if variable.path == path and on in arguments:
                variable.assign(np.nextafter(variable.numpy(), np.float32(9.0)))
        return history

    wanted = ("Checkpoint", "Hook", "When", "View", "NEVER")
    return SimpleNamespace(fit=fit, **{name: getattr(fitcore, name) for name in wanted})


@pytest.mark.parametrize(("on", "claim"), [("x", "exact"), ("noise", "with noise"), ("checkpoint", "resumed")])
def test_the_kind_to_blame_is_found(on: str, claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit in one of three layers that are trained together."""
    monkeypatch.setattr(kinds, "fitcore", faulty("LayerNormalization_head/bias", on))
    rows = {row.case: row for row in kinds.rows_of(SOME, repeat=False)}
    assert list(rows) == SOME
    odd = rows.pop("layer_LayerNormalization")
    assert (odd.verdict, odd.identical, odd.claim) == ("NO", False, claim)
    assert 0 < (odd.weights or 0) < 1e-6
    assert all((row.verdict, row.claim) == ("yes", "") for row in rows.values())


def test_an_error_of_one_kind_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what differs only beside others is said of all of them."""
    fit = kinds.measured_fit

    def failing(model: keras.Model, **arguments: Any) -> Any:
        if any(layer.name == "Dense_head" for layer in model.layers):
            raise ValueError("no noise here\nand more")
        return fit(model, **arguments)

    monkeypatch.setattr(kinds.MEASURED, "fit", failing)
    rows = {row.case: row for row in kinds.rows_of(SOME, repeat=False)}
    assert [rows[name].verdict for name in SOME] == ["yes", "yes", "ValueError: no noise here"]
    assert rows["layer_Dense"].claim == "with noise, resumed"

    def failing_together(model: keras.Model, **arguments: Any) -> Any:
        if len(model.output_shape) == 2 and model.output_shape[1] > 1:
            raise ValueError("too many")
        return fit(model, **arguments)

    monkeypatch.setattr(kinds.MEASURED, "fit", failing_together)
    assert [row.verdict for row in kinds.rows_of(SOME[:2], repeat=False)] == ["ValueError: too many"] * 2


def test_a_fit_that_begins_again_is_no_resumed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bits are the same."""

    def forgetful(model: keras.Model, checkpoint: Any, **arguments: Any) -> Any:
        return fitcore.fit(model, **arguments)

    case = kinds.Case("relu", lambda: kinds.with_activations([kinds.KINDS["activation_relu"]]))
    with pytest.raises(RuntimeError, match="began again"):
        kinds.resumed(case, SimpleNamespace(fit=forgetful))

    def deaf(model: keras.Model, hooks: Any, **arguments: Any) -> Any:
        return fitcore.fit(model, **arguments)

    with pytest.raises(RuntimeError, match="not cut"):
        kinds.resumed(case, SimpleNamespace(fit=deaf))


def test_what_the_installed_keras_lacks_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds.KINDS, "layer_Later", kinds.Kind("Later", "", keras.layers, "vectors"))
    rows = [*kinds.rows_of(["layer_Later"], repeat=False)]
    assert [row.verdict for row in rows] == [f"skipped: Keras {keras.__version__} has no Later"]


@pytest.mark.parametrize("what", kinds.MODELS)
def test_one_of_each_is_trained(what: str) -> None:
    """That all of them are exact, CI proves by the parity command."""
    name = {"activation": "relu", "layer": "Embedding", "optimizer": "Adam", "loss": "Huber", "metric": "AUC"}[what]
    rows = [*kinds.rows_of([f"{what}_{name}"], repeat=True)]
    assert [(row.case, row.verdict, row.weights) for row in rows] == [(f"{what}_{name}", "yes", 0.0)]
