"""The model of time to target against workers: its formulas against cases worked by hand and against simulation; and the
experiment, made short."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.workers import measured
from experiments.workers.model import Cluster, Compute, Link, Steps, fit_compute, fit_link, simulate, slowest

ROOT = Path(__file__).parent.parent
COMPUTE = Compute(fixed=2e-3, per_example=1e-4)
LINK = Link(latency=5e-4, bandwidth=1e8)
STEPS = Steps(least=100, noise=50)
HOSTS = Cluster(COMPUTE, LINK, gradient_bytes=2e5)


def ring(values: np.ndarray, link: Link) -> tuple[np.ndarray, float]:
    """A ring all-reduce of `values` [workers, n] as it is done, message by message: (what each ends with, seconds)."""
    n = len(values)
    chunks = [np.array_split(row.copy(), n) for row in values]
    seconds = 0.0
    for k in range(2 * (n - 1)):
        summing = k < n - 1
        sent = [((i - k) % n if summing else (i + 1 - (k - n + 1)) % n) for i in range(n)]
        messages = [chunks[i][sent[i]].copy() for i in range(n)]
        for i in range(n):  # to the right neighbour, all at once
            target = chunks[(i + 1) % n]
            target[sent[i]] = target[sent[i]] + messages[i] if summing else messages[i]
        seconds += link.latency + messages[0].nbytes / link.bandwidth
    return np.array([np.concatenate(row) for row in chunks]), seconds


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_a_ring_takes_what_its_messages_take(workers: int) -> None:
    values = np.random.default_rng(0).normal(size=(workers, 240))
    sums, seconds = ring(values, LINK)
    np.testing.assert_allclose(sums, np.tile(values.sum(0), (workers, 1)))  # it is an all-reduce
    assert LINK.all_reduce(workers, values[0].nbytes) == pytest.approx(seconds)


def test_worked_by_hand() -> None:
    # 2 workers, batch 80: 40 examples each, 2 ms + 4 ms; two messages of 100 kB, 0.5 ms + 1 ms each.
    assert HOSTS.step(2, 80) == pytest.approx(9e-3)
    assert STEPS.needed(80) == pytest.approx(162.5)  # 100 (1 + 50/80)
    assert HOSTS.to_target(STEPS, 2, 80) == pytest.approx(1.4625)
    # 4 workers on 2 cores: 20 examples each, 2 ms + 2 ms; six messages of 50 kB, 0.5 ms + 0.5 ms each; all of it twice as long.
    shared = Cluster(COMPUTE, LINK, gradient_bytes=2e5, cores=2)
    assert shared.step(4, 80) == pytest.approx(20e-3)
    # In two all-reduces there are twice as many messages, of half the size.
    assert Cluster(COMPUTE, LINK, 2e5, collectives=2).step(2, 80) == pytest.approx(10e-3)
    assert shared.step(2, 80) == HOSTS.step(2, 80)
    # At the noise scale twice the least steps are needed, and twice the least examples (McCandlish et al. 2018, eq. 2.11).
    assert STEPS.needed(50) == 200
    for batch in (10, 50, 400):
        examples = batch * STEPS.needed(batch)
        assert (STEPS.needed(batch) / 100 - 1) * (examples / (100 * 50) - 1) == pytest.approx(1)
    again = Steps.measured_at(batch=25, steps=300, noise=50)
    assert (again.least, again.noise) == pytest.approx((100, 50))


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_the_best_batch_is_the_best(workers: int) -> None:
    batches = np.geomspace(workers, 1e5, 20001)
    times = [HOSTS.to_target(STEPS, workers, batch) for batch in batches]
    assert HOSTS.best_batch(STEPS, workers) == pytest.approx(batches[int(np.argmin(times))], rel=1e-3)
    assert HOSTS.best_time(STEPS, workers) == pytest.approx(min(times))
    assert HOSTS.best_batch(STEPS, workers, most=20) == 20
    assert HOSTS.best_time(STEPS, workers, most=20) > min(times)


def test_how_many_workers_pay() -> None:
    times = [HOSTS.best_time(STEPS, n) for n in range(1, 65)]
    assert HOSTS.fastest(STEPS, 64) == 1 + int(np.argmin(times))
    assert HOSTS.fastest(STEPS, 2) == min(2, HOSTS.fastest(STEPS, 64))
    pays = HOSTS.pays(STEPS, 0.3, 64)
    assert times[0] / (pays * times[pays - 1]) >= 0.3 > times[0] / ((pays + 1) * times[pays])
    assert HOSTS.efficiency(STEPS, 1) == 1
    # A link that costs nothing: no number of workers is one too many, and of large batches all examples pay alike.
    free = Cluster(Compute(0.0, 1e-4), Link(0.0, math.inf), gradient_bytes=2e5)
    assert [free.efficiency(STEPS, n) for n in (2, 10, 50)] == pytest.approx(
        [free.best_time(STEPS, 1) / (n * free.best_time(STEPS, n)) for n in (2, 10, 50)]
    )
    assert free.fastest(STEPS, 40, most=400) == 40


def test_all_wait_for_the_slowest() -> None:
    assert slowest([1.0], 100) == 1
    assert slowest([1.0, 3.0], 1) == 1
    assert slowest([1.0, 3.0], 2) == pytest.approx((0.25 * 1 + 0.75 * 3) / 2)
    spread = np.random.default_rng(0).gamma(4, size=200)
    drawn = np.random.default_rng(1).choice(spread, (50_000, 8)).max(1) / spread.mean()
    assert slowest(spread, 8) == pytest.approx(drawn.mean(), abs=4 * drawn.std() / math.sqrt(len(drawn)))


@pytest.mark.parametrize("workers", [1, 2, 5, 32])
def test_the_formula_is_what_a_simulation_of_each_message_gives(workers: int) -> None:
    spread = np.random.default_rng(0).gamma(9, size=100)
    cluster = Cluster(COMPUTE, LINK, gradient_bytes=2e5, collectives=2, spread=spread)
    assert simulate(cluster, workers, 320, steps=2000, seed=0) == pytest.approx(cluster.step(workers, 320), rel=0.01)
    assert simulate(HOSTS, workers, 320, steps=3, seed=0) == pytest.approx(HOSTS.step(workers, 320))
    with pytest.raises(ValueError, match="cores=2"):
        simulate(Cluster(COMPUTE, LINK, 2e5, cores=2), workers, 320, steps=1, seed=0)


def test_the_steps_formula_is_what_noisy_descent_needs() -> None:
    """Descent on 0.5 |w|^2, its gradient w with noise of trace B_noise |w|^2 / B, at the rate of eq. 2.6: 1/(1 + B_noise/B) of
    the rate without noise, which is small, so that one step changes little."""
    random = np.random.default_rng(0)

    def steps(batch: float, noise: float = 50.0, dimensions: int = 400) -> float:
        w, count = np.ones(dimensions), 0
        share = 1.0 if math.isinf(batch) else 1 / (1 + noise / batch)
        while w @ w > 0.1 * dimensions:
            gradient = w + random.normal(size=dimensions) * np.linalg.norm(w) * math.sqrt(noise / batch / dimensions)
            w, count = w - 0.01 * share * gradient, count + 1
        return count

    least = steps(math.inf)
    for batch in (10, 50, 500):
        assert steps(batch) == pytest.approx(Steps(least, 50).needed(batch), rel=0.03)


def test_a_fit_finds_what_made_the_times() -> None:
    examples = [10, 80, 640]
    compute = fit_compute(examples, [COMPUTE.seconds(n) for n in examples])
    assert (compute.fixed, compute.per_example) == pytest.approx((2e-3, 1e-4))
    sizes = [1e3, 1e5, 1e6]
    link = fit_link(3, sizes, [LINK.all_reduce(3, size) for size in sizes])
    assert (link.latency, link.bandwidth) == pytest.approx((5e-4, 1e8))
    # No term is below zero, whatever noise does: times that fall with the examples are all fixed cost.
    assert fit_compute([10, 20], [3.0, 1.0]).per_example == 0
    assert fit_link(2, [10, 1000], [1.0, 200.0]).latency == 0
    assert fit_link(2, [10, 20], [3.0, 1.0]).bandwidth == math.inf
    with pytest.raises(ValueError, match=r"`examples`.*1 different"):
        fit_compute([10, 10], [1.0, 1.0])
    with pytest.raises(ValueError, match=r"`sizes`.*3 times"):
        fit_link(2, [10, 20], [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"`workers`.*Received: 1"):
        fit_link(1, [10, 20], [1.0, 1.0])


def test_the_machine_is_fitted_on_steps_of_one_and_all_reduces_of_two() -> None:
    batches, sizes, rounds = (20, 80, 400), (1_000, 200_000), 3
    truth = Cluster(COMPUTE, LINK, gradient_bytes=200_000, cores=2)

    def times(workers: int, pace: float) -> measured.Times:
        steps = {batch: [pace * truth.step(workers, batch)] * rounds for batch in batches}
        reduced = {size: [truth.share(workers) * LINK.all_reduce(workers, size)] * rounds for size in sizes}
        return measured.Times(workers, steps, reduced, truth.gradient_bytes, 1, truth.cores, [])

    clusters = measured.fitted(times(1, 1.0), times(2, 7.0))  # steps of two are not what it is fitted to
    assert len(clusters) == rounds
    here = measured.typical(clusters)
    for workers in (1, 2, 4):
        assert here.step(workers, 80) == pytest.approx(truth.step(workers, 80))
    one_core = Cluster(COMPUTE, LINK, gradient_bytes=200_000, cores=1)
    slow = measured.Times(2, {}, {s: [2 * LINK.all_reduce(2, s)] * rounds for s in sizes}, 200_000, 1, 1, [])
    fast = measured.Times(1, {b: [one_core.step(1, b)] * rounds for b in batches}, {}, 200_000, 1, 1, [])
    assert vars(measured.typical(measured.fitted(fast, slow)).link) == pytest.approx(vars(LINK))  # as with a core for each


def test_workers_end_with_the_experiment_even_if_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "fitcore").mkdir()
    (tmp_path / "fitcore" / "cluster.py").write_text("import time; print('up', flush=True); time.sleep(60)")
    (tmp_path / "fitcore" / "__init__.py").touch()
    body = "from pathlib import Path; from experiments.workers.measured import measure; measure(2, [8], 2, 8, Path('.'))"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    experiment = subprocess.Popen([sys.executable, "-c", body], env=environment, cwd=tmp_path)
    children = Path(f"/proc/{experiment.pid}/task/{experiment.pid}/children")
    until = time.monotonic() + 30
    while not (started := children.read_text().split()) and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.2)  # past the exec
    experiment.kill()
    experiment.wait()
    (launcher,) = started
    while Path(f"/proc/{launcher}").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not Path(f"/proc/{launcher}").exists()


def test_the_steps_of_other_batches_are_predicted_from_one() -> None:
    from experiments.workers import steps  # it defines noise_scale's flags

    random = np.random.default_rng(0)
    pieces = np.stack([random.normal(60, 3, (6, 5)), np.full((6, 5), 1.2)], axis=-1)  # a noise scale of 50
    sweep = {batch: (100 * (1 + 50 / batch) * random.normal(1, 0.02, 6)).tolist() for batch in (20, 80, 400)}
    assert steps.noise_scale(pieces) == pytest.approx(50, rel=0.03)
    ratios = steps.predicted_over_measured(sweep, pieces, measured_at=80)
    assert ratios[80].mean == pytest.approx(1)
    for batch in (20, 400):
        assert ratios[batch].low < 1 < ratios[batch].high
        assert ratios[batch].high - ratios[batch].low < 0.15
    undetermined = pieces - [0.0, 1.21]  # in no seed can |G|^2 be told from zero
    assert steps.predicted_over_measured(sweep, undetermined, 80)[400].high == math.inf
    # Of one value per seed, the jackknife on logarithms is Student's interval of the geometric mean.
    values = np.array([1.0, 2.0, 4.0])
    found = steps.jackknife(lambda seeds: float(np.exp(np.log(values[seeds]).mean())), 3)
    half = 4.3027 * math.log(2) / math.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2 * math.exp(-half), 2 * math.exp(half)), rel=1e-3)


def test_the_example_of_the_documentation_runs() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "scaling.md").read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "docs/scaling.md", "exec"), names)
    assert isinstance(names["hosts"], Cluster)


@pytest.mark.slow
def test_scaling(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    short = ["--batch=40", "--batch=80", "--batch=400", "--target=1.5", "--seeds=2", "--workers=2", "--rounds=2"]
    command = [sys.executable, "-m", "experiments.scaling", *short, "--most_workers=20", f"--logdir={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    steps, predicted = result["steps"], result["predicted"]
    assert predicted["80"] == pytest.approx(np.mean(steps["80"]))  # it goes through the point that it was measured at
    assert set(result["predicted_over_measured"]) == {"40", "400"}
    seconds = result["seconds"]
    assert set(seconds["measured"]) == {"1", "2"}
    for n, over in seconds["predicted_over_measured"].items():
        assert len(over) == 3
        assert all(0.02 < ratio["mean"] < 50 for ratio in over.values()), n  # the machine is busy with other tests
    for found in seconds["on_paper"]:
        assert [row["workers"] for row in found["rows"]] == [1, 2, 4, 8, 16, 20]
        assert 1 <= found["pays"] <= 20
        for row in found["rows"]:
            assert row["simulated"] == pytest.approx(row["step"], rel=0.25)
    assert [found["link"] for found in seconds["on_paper"]] == ["50 µs, 10 Gbit/s", "2 µs, 200 Gbit/s"]
    assert (tmp_path / "run" / "scaling.png").stat().st_size > 10_000
    assert "predicted over measured" in done.stdout
