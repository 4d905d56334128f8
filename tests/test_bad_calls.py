"""Bad calls: fitcore raises what Keras raises, or says in PARITY.md why it refuses more; and it would be noticed if not."""

from __future__ import annotations

import dataclasses
import functools
import re
from types import SimpleNamespace
from typing import Any

import keras
import pytest

import fitcore
from benchmarks.bad_calls import CALLS, Bad, Row, compare, table
from benchmarks.bad_calls.setup import Picky, Raises, Unforeseen, X, Y, linear
from benchmarks.parity import table as parity_table
from benchmarks.parity.table import BAD_CALLS, PARITY
from fitcore import errors


@functools.cache
def rows_of(theme: str) -> list[Row]:
    return [compare(bad) for bad in CALLS[theme]]


@pytest.mark.parametrize("theme", CALLS)
def test_answered_as_by_keras(theme: str) -> None:
    assert [row for row in rows_of(theme) if row.problem] == []


def listed() -> list[list[str]]:
    """The lines of the tables in PARITY.md's section, cell by cell, head lines included."""
    section = parity_table.bad_calls_section(PARITY.read_text())
    return [re.split(r" ?\| ?", line)[1:-1] for line in section.splitlines() if line.startswith("|")]


def test_the_section_lists_exactly_the_calls() -> None:
    """It would be stale otherwise: run the commands at PARITY.md's head."""
    lines = [cells for cells in listed() if cells[0] not in ("call", "---")]
    assert [(cells[0], cells[-1]) for cells in lines] == [(bad.text, bad.why) for calls in CALLS.values() for bad in calls]
    text = PARITY.read_text()
    assert text.startswith(parity_table.HEAD)
    assert text.removesuffix(parity_table.bad_calls_section(text)).endswith(parity_table.TAIL)  # either is written alone


@pytest.mark.parametrize("theme", CALLS)
def test_the_section_says_what_is_raised_here(theme: str) -> None:
    """As far as the installed Keras is one of those listed."""
    heads = next(cells for cells in listed() if cells[0] == "call")
    if f"Keras {keras.__version__}" not in heads:
        pytest.skip("PARITY.md knows nothing of this Keras")
    column = heads.index(f"Keras {keras.__version__}")
    said = {cells[0]: cells[column] for cells in listed()}
    assert {row.call: said[row.call] for row in rows_of(theme)} == {row.call: table.cell(row) for row in rows_of(theme)}


def test_each_call_has_its_text_and_reasons_are_needed() -> None:
    calls = [bad for each in CALLS.values() for bad in each]
    assert len(calls) == len({bad.text for bad in calls}) >= 300
    assert not any("|" in bad.text + bad.why for bad in calls)
    for cells in listed():
        if cells[-1] not in ("", "why refused", "---"):
            assert any(cell.startswith("nothing; fitcore") for cell in cells[1:-1]), cells[0]


def answered(error: BaseException | None = None, result: Any = None) -> Any:
    """A fitcore that answers each fit so."""

    def fit(*_: Any, **__: Any) -> Any:
        if error is not None:
            raise error
        return result

    return SimpleNamespace(fit=fit, evaluate=fit, train_on_batch=fit, test_on_batch=fit)


REFUSED = Bad("y too short", lambda by: by.fit(linear(), X, Y[:5]))  # a ValueError of Keras's
TAKEN = Bad("fine", lambda by: by.fit(linear(), X, Y))


@pytest.mark.parametrize(
    ("bad", "by", "problem"),
    [
        (REFUSED, answered(TypeError("`y`")), "another class"),
        (REFUSED, answered(), "accepted"),
        (REFUSED, answered(errors.ModelError("no")), "no argument is named"),
        (REFUSED, answered(errors.ModelError("`model` is wrong")), ""),
        (REFUSED, answered(Picky(1, where="a subclass")), ""),
        (TAKEN, answered(ValueError("`x`")), "refused without a reason"),
        (dataclasses.replace(TAKEN, why="so it is"), answered(ValueError("`x`")), ""),
        (TAKEN, answered(result={"loss": [1.0]}), "another result"),
        (TAKEN, fitcore, ""),
    ],
)
def test_what_is_wrong_is_noticed(bad: Bad, by: Any, problem: str) -> None:
    found = compare(bad, by).problem
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


@pytest.mark.parametrize("method", ["on_train_begin", "on_train_batch_end", "on_test_batch_end", "on_epoch_end"])
def test_an_error_of_a_callback_comes_through_as_it_is(method: str) -> None:
    error = Unforeseen(7, where=method)
    with pytest.raises(Unforeseen) as caught:
        fitcore.fit(linear(), X, Y, batch_size=4, validation_data=(X, Y), callbacks=[Raises(method, error)], verbose=0)
    assert caught.value is error


def test_errors_of_two_kinds() -> None:
    """Each is caught as what it says and as what Keras raises, and shows its message as it is."""
    for name in ("NoDataError", "ModelError", "CallbackError", "FrequencyError"):
        kind = getattr(errors, name)
        assert len(kind.__bases__) == 2
        assert str(kind("`x` isn't there")) == "`x` isn't there"


def test_the_section_is_written_by_itself() -> None:
    versions = {"keras": "9", "tensorflow": "8", "numpy": "7", "python": "6"}
    rows = [dataclasses.asdict(row) for theme in CALLS for row in rows_of(theme)]
    result: dict[str, Any] = {"versions": versions, "device": "CPU", "date": "2026-01-01", "rows": rows}
    written = table.section([result])
    assert written.startswith(BAD_CALLS)
    assert f"- Keras 9, TensorFlow 8, Python 6, CPU, 2026-01-01: {len(rows)} calls" in written
    assert "| no data at all | `KeyError`; fitcore `NoDataError` |  |" in written
    for wrong in ([], [rows[0] | {"problem": "accepted"}]):
        with pytest.raises(ValueError, match="Missing or wrong"):
            table.section([result | {"rows": wrong + rows[1:]}])
