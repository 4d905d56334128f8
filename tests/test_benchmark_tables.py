"""What the benchmarks make of their figures: tables, exponents, sentences. Nothing is timed here."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import about, growth, results, streaming


def peer(us: float, times_fast: float, parameters: int = 10, loss: float = 1.0) -> dict[str, Any]:
    low_high = {"times_fast_min": times_fast, "times_fast_max": times_fast}
    return {"us_per_step": us, "times_fast": times_fast, **low_high, "first_s": 1.25, "parameters": parameters, "loss": loss}


def measured() -> dict[str, Any]:
    """As benchmarks.peers writes it: two workloads."""
    mlp = {"keras": peer(400.0, 4.0), "jax_scan": peer(50.0, 0.5), "exact": peer(200.0, 2.0), "fast": peer(100.0, 1.0)}
    cnn = {
        "keras": peer(900.0, 9.0),
        "jax_scan": peer(800.0, 8.0, 11, 2.0),
        "exact": peer(100.0, 1.0),
        "fast": peer(100.0, 1.0),
    }
    found = [
        {"workload": "mlp", "peers": mlp, "failed": {}},
        {"workload": "cnn", "peers": cnn, "failed": {"torch": "it ended"}},
    ]
    return about.about("peers") | {"rounds": 7, "results": found}


def flat(page: str) -> str:
    """Without its line breaks."""
    return " ".join(page.split())


def test_a_table_of_peers() -> None:
    page = results.written([measured()])
    assert "| | keras | jax_scan | exact | fast |\n|---|---|---|---|---|" in page
    assert "| mlp | 400.0 (4.00) | 50.0 (0.50) | 200.0 (2.00) | 100.0 (1.00) |" in page
    assert "| **geometric mean** | **(6.00)** | **(2.00)** | **(1.41)** | **(1.00)** |" in page
    assert "python -m benchmarks.peers --rounds=7" in flat(page)
    assert all(len(line) <= 128 for line in page.splitlines() if not line.startswith("|"))


def test_sentences_follow_from_the_table() -> None:
    page = flat(results.written([measured()]))
    assert "- keras takes 6.00 times as long as the fast tier; longer on every one of 2." in page
    assert "- jax_scan takes 2.00 times as long as the fast tier; less on mlp (0.50)." in page
    assert "- jax_scan without convolutions: 0.50 times as long." in page
    mean = math.sqrt(2 * 9)
    assert f"The exact tier is {mean:.2f} times as fast as `model.fit` by default" in page
    assert "2.00 at worst" in page
    assert "mlp 1.2 and 1.2 and 1.2" in page
    assert "jax_scan on cnn (11 parameters), jax_scan on cnn (first loss 2)" in page
    assert "- torch failed on cnn: it ended." in page


def test_a_plot_of_characters() -> None:
    assert results.bars({"a": 4.0, "long": 1.0, "b": 0.001}) == [
        "```",
        f"a    {'#' * 40} 4.00",
        f"long {'#' * 10} 1.00",
        "b    # 0.00",
        "```",
    ]


def test_a_file_that_nobody_here_wrote_is_refused() -> None:
    with pytest.raises(ValueError, match="command='gate'"):
        results.written([{"command": "gate"}])


def test_other_sections() -> None:
    row = {"workload": "mlp", "bound": "bytes", "exact_times_floor": 4.0, "fast_times_floor": 2.0}
    row |= dict.fromkeys(("mflops", "gflops_per_second", "megabytes", "gigabytes_per_second"), 1.0)
    row |= dict.fromkeys(("matrices_us", "bytes_us", "exact_us", "fast_us"), 1.0)
    limits = about.about("limit") | {"rounds": 5, "rows": [row, row | {"exact_times_floor": 1.0}]}
    grown = {"axis": "batch", "sizes": [1, 10], "us_per_step": [2.0, 20.0], "ms_at_start": [1.0, 3.0]}
    grown |= {"exponent": 1.0, "at_the_end": 1.0}
    streamed = {"gigabytes": 0.5, "batches": 7, "fitcore_of_the_sum": 0.9, "keras_of_the_sum": 1.5, "peak_mb": 800.0}
    streamed |= {f"{way}_us": 1.0 for way in streaming.WAYS}
    page = results.written(
        [
            limits,
            about.about("growth") | {"numerics": "exact", "rows": [grown]},
            about.about("streaming") | {"rounds": 5, "row": streamed},
        ]
    )
    assert "the exact tier takes 2.00 times the floor, the fast one 2.00." in flat(page)
    assert "| batch | 1.00 | 1.00 | 1: 2, 10: 20 | 1, 3 |" in page
    assert "fitcore takes 0.90, Keras 1.50; peak memory 800 MB." in flat(page)
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## The limit", "## Growth", "## Streaming"]


def test_what_is_kept_with_a_measurement(tmp_path: Path) -> None:
    about.write(str(tmp_path / "a.json"), "limit", {"rows": []})
    data = json.loads((tmp_path / "a.json").read_text())
    assert data["command"] == "limit"
    assert data["device"] == "cpu"
    assert {"keras", "tensorflow"} <= set(data["versions"])


def test_an_exponent() -> None:
    assert growth.exponent([1, 10, 100], [5.0, 50.0, 500.0]) == pytest.approx(1.0)
    assert growth.exponent([2, 4, 8], [3.0, 3.0, 3.0]) == pytest.approx(0.0)
    assert growth.exponent([2, 4, 8], [4.0, 16.0, 64.0]) == pytest.approx(2.0)


def test_a_step_and_what_a_fit_begins_with() -> None:
    assert growth.step_and_start((100, 500), (1.2, 2.0)) == pytest.approx((0.002, 1.0))


@pytest.mark.parametrize("axis", growth.AXES)
def test_an_axis_has_fits_of_so_many_steps(axis: str) -> None:
    sizes = growth.AXES[axis].made(growth.AXES[axis].sizes[0])
    fit = growth.fits(sizes, 3, "exact")
    assert 0 < fit(3) < 60


def test_a_pipeline_has_so_many_batches() -> None:
    assert streaming.batches_in(1.0) == 1246
    assert streaming.batches_in(1e-9) == 1
    batches = list(streaming.pipeline(2))
    assert [tuple(x.shape) for x, _ in batches] == [(256, 784)] * 2
    assert not (batches[0][0].numpy() == batches[1][0].numpy()).all()
    assert (batches[0][0].numpy() == next(iter(streaming.pipeline(1)))[0].numpy()).all()  # from its number alone


def test_each_way_goes_through_the_data_once() -> None:
    ways = streaming.ways(3)
    assert set(ways) == set(streaming.WAYS)
    assert len(ways["fitcore"]().steps["step/loss"]) == 3
    ways["steps"]()
    ways["pipeline"]()
