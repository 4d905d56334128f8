"""What the benchmarks measure with, and make of their figures: tables, exponents, sentences. Nothing is timed here."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags

from benchmarks import about, device, growth, headline, measuring, results, streaming

BENCHMARKS = Path(results.__file__).parent
WITHOUT_DEVICE = {
    "results": "measures nothing",
    "placement": "answers for a GPU without one",
    "chaos_run": "chaos starts it, and says where",
    "peers": "has the flag, and no TensorFlow",
    "gate": "has it from peers",
    "cluster_speed": "each process of the cluster has the CPU",
}


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
    grown |= {"exponent": 1.0, "at_the_end": 1.0, "peak_mb": [1.0, 3.0], "kept_mb": [0.0, 2.0], "memory_at_the_end": math.nan}
    streamed = {"model": "mlp", "fitcore_of_the_sum": 0.9, "keras_of_the_sum": 1.5}
    streamed |= {"fitcore_of_the_pipeline": 1.2, "keras_of_the_pipeline": 1.8}
    streamed |= {f"{way}_us": 1.0 for way in streaming.WAYS}
    whole = {"gigabytes": 0.5, "batches": 7, "allowed_mb": 120.0, "peak_mb": 800.0, "rows": [streamed]}
    page = results.written(
        [
            limits,
            about.about("growth") | {"numerics": "exact", "rows": [grown]},
            about.about("streaming") | {"rounds": 5} | whole,
        ]
    )
    assert "the exact tier takes 2.00 times the floor, the fast one 2.00." in flat(page)
    assert "| batch | 1.00 | 1.00 | - | 1: 2, 10: 20 | 1, 3 | 1 (0), 3 (2) |" in page
    assert "may hold 120 MB more than it held after small fits; at the peak it held 800 MB in all." in flat(page)
    assert "fitcore takes 1.20 times as long as the pipeline, 0.90 as both; Keras takes 1.80" in flat(page)
    assert "fitcore: at most 5 % over both alone." in flat(page)
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
    assert fit(3) > 0


def test_a_verdict_on_streaming() -> None:
    assert streaming.verdict(of_the_sum=0.5, of_the_pipeline=1.05) == "at most 5 % over the bare pipeline"
    assert streaming.verdict(of_the_sum=1.05, of_the_pipeline=1.06) == "at most 5 % over both alone"
    assert streaming.verdict(of_the_sum=1.06, of_the_pipeline=1.06) == "MISSED"


def test_a_pipeline_has_the_rows_of_the_files(tmp_path: Path) -> None:
    assert streaming.batches_in(1.0) == 1244
    assert streaming.batches_in(1e-9) == streaming.FILES
    batches = list(streaming.pipeline(streaming.write(str(tmp_path), 6), 6))
    assert [(tuple(x.shape), tuple(y.shape)) for x, y in batches] == [((256, 784), (256,))] * 6
    written = np.concatenate([np.random.default_rng(i).random((256, 785), dtype=np.float32)[:, :-1] for i in range(6)])
    read = np.concatenate([x.numpy() for x, _ in batches])
    assert sorted(map(bytes, read)) == sorted(map(bytes, written))  # files take turns
    assert {*np.concatenate([y.numpy() for _, y in batches])} == set(range(10))


def test_each_way_goes_through_the_data_once(tmp_path: Path) -> None:
    ways = streaming.ways("linear", streaming.pipeline(streaming.write(str(tmp_path), 5), 5), 5)
    assert set(ways) == set(streaming.WAYS)
    assert len(ways["fitcore"]().steps["step/loss"]) == 5
    assert ways["pipeline"]() == 5
    ways["steps"]()


def test_memory_can_be_limited() -> None:
    with streaming.at_most(64 * 2**20):
        assert np.ones(24 * 2**20, np.uint8).all()
        with pytest.raises(MemoryError):
            np.empty(100 * 2**20, np.uint8)
    assert len(np.empty(100 * 2**20, np.uint8))
    with pytest.raises(RuntimeError, match="were granted"), streaming.at_most(0):
        pass


# --- README's headline ----------------------------------------------------------------------------------------------------


def test_the_readme_says_what_the_results_say() -> None:
    """Run `python -m benchmarks.results` again, or `headline.put` with its page, if this fails."""
    text = headline.README.read_text()
    _, begin, rest = text.partition(headline.BEGIN)
    said, end, _ = rest.partition(headline.END)
    assert begin
    assert end
    assert said == headline.said(results.OUT.read_text()) != ""


def test_a_headline_is_made_of_the_table() -> None:
    page = results.written([measured()])
    assert headline.table_in(page)["cnn"]["jax_scan"] == (800.0, 8.0)
    said = flat(headline.said(page))
    mean = math.sqrt(2 * 9)
    assert f"**{mean:.1f} times as fast as `model.fit`** as a geometric mean of 2 models (cnn 9.0, mlp 2.0)" in said
    assert "is 6.0 times as fast as `model.fit` (4.0 at worst); of JAX's" in said
    assert "it takes 2.00 times the time where there is no convolution." in said
    assert f"Measured on {about.about('')['cores']} CPU cores" in said


def test_a_headline_gets_into_the_readme(tmp_path: Path) -> None:
    readme, page = tmp_path / "README.md", results.written([measured()])
    readme.write_text(f"before\n{headline.BEGIN}old\n{headline.END}after\n")
    headline.put("no table", readme)
    assert "old" in readme.read_text()
    headline.put(page, readme)
    assert readme.read_text() == f"before\n{headline.BEGIN}{headline.said(page)}{headline.END}after\n"
    readme.write_text("nothing")
    with pytest.raises(ValueError, match="end of the headline"):
        headline.put(page, readme)


# --- what is measured with ------------------------------------------------------------------------------------------------


def test_ways_take_turns() -> None:
    order: list[str] = []

    def run(way: str) -> int:
        order.append(way)
        return len(order)

    assert measuring.in_turn(("a", "b", "c"), run, 3) == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_an_interval_of_the_median() -> None:
    """Binomial(11, 1/2): P(at most 1 below) = 0.006, P(at most 2) = 0.03."""
    assert measuring.interval_of_median([float(i) for i in range(11)][::-1]) == (1.0, 9.0)
    assert measuring.interval_of_median([3.0]) == (3.0, 3.0)


def test_verdicts() -> None:
    assert [measuring.verdict(True, True), measuring.verdict(True, False)] == ["met", "met, maybe"]
    assert measuring.verdict(False, False) == "MISSED"


def test_a_child_that_fails_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"about no.* ended with 1"):
        measuring.said_by("about no", "argument")


def test_memory_of_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 MB while it trains, of which 50 are kept."""
    kept: list[np.ndarray] = []

    def fits(*_: object) -> Any:
        def fit(steps: int) -> float:
            kept.append(np.ones(50 * 2**20, np.uint8))
            np.ones(150 * 2**20, np.uint8)
            return 1.0

        return fit

    monkeypatch.setattr(growth, "fits", fits)
    found = growth.memory("batch", 8, "exact")
    assert found["peak_mb"] == pytest.approx(200, abs=10)
    assert found["kept_mb"] == pytest.approx(50, abs=10)


def test_every_benchmark_that_trains_takes_a_device() -> None:
    commands = {path.stem for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text()}
    taking = {name for name in commands if "device.define()" in (BENCHMARKS / f"{name}.py").read_text()}
    assert commands - taking == WITHOUT_DEVICE.keys()


def test_where_children_train(monkeypatch: pytest.MonkeyPatch) -> None:
    values = flags.FlagValues()
    flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "", flag_values=values)
    values(["line"])
    monkeypatch.setattr(flags, "FLAGS", values)
    assert device.environment()["CUDA_VISIBLE_DEVICES"] == "-1"
    values.device = "gpu"
    with pytest.raises(Exception, match="sees no GPU"):
        device.environment()
