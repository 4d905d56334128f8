"""A real TensorBoard shows what fitcore writes: each dashboard's HTTP API, and the page itself in a headless Chromium.

The screenshots are left in test-artefacts/.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import fitcore
from fitcore.hooks import hparams
from tests import chromium

pytestmark = pytest.mark.slow

ARTEFACTS = Path(__file__).parent.parent / "test-artefacts"
STEPS = 12  # of each of the two runs below


class Server:
    """A TensorBoard of its own on `folder`."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tensorboard.main", f"--logdir={folder}", "--port=0", "--host=127.0.0.1"]
        self.process = subprocess.Popen([*command, "--reload_interval=1"], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        said = ""
        for line in self.process.stderr:
            said += line
            if found := re.search(r"http://\S+", line):
                self.url = found.group()
                break
        else:
            raise AssertionError(f"TensorBoard ended before it served:\n{said}")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()  # so that the pipe never fills

    def get(self, path: str, body: object = None, **query: str) -> object:
        """What the server answers: GET, or POST with a body."""
        data = None if body is None else json.dumps(body).encode()
        address = f"{self.url}data/{path}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
        return json.loads(content) if answer.headers["Content-Type"].startswith("application/json") else content

    def wait_until(self, there: object) -> None:
        """Wait until TensorBoard has loaded what this looks for."""
        for _ in range(60):
            if there(self):
                return
            time.sleep(0.5)
        raise AssertionError("TensorBoard hasn't loaded the runs after 30 s")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """TensorBoard on runs of a tiny CNN: two of fitcore, with other learning rates, and one of Keras, equal to the first."""
    runs = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    x, y = random.random((48, 8, 8, 1), dtype="float32"), random.integers(0, 3, 48)
    for rate in (0.01, 0.1):
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        body = [layers.Conv2D(2, 3, activation="relu", name="conv"), layers.Flatten(), layers.Dense(3, "softmax", name="top")]
        model = keras.Sequential([keras.Input((8, 8, 1)), *body])
        model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
        folder = runs / f"rate={rate}"
        weights = model.get_weights()
        history = fitcore.fit(
            model,
            x,
            y,
            batch_size=12,
            epochs=3,
            verbose=0,
            validation_split=0.0,
            validation_data=(x[:12], y[:12]),
            hooks=[fitcore.TensorBoard(folder, histograms=4, images=2)],
            noise=fitcore.GradientNoise(directory=folder),
        )
        final = {name: values[-1] for name, values in history.history.items()}
        hparams.write(folder, {"learning_rate": rate, "batch_size": 12, "schedule": None}, final)
        if rate == 0.01:
            keras.utils.set_random_seed(0)
            model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
            model.set_weights(weights)
            callback = keras.callbacks.TensorBoard(str(runs / "keras"), update_freq=1)
            validation = {"validation_data": (x[:12], y[:12])}
            model.fit(x, y, batch_size=12, epochs=3, verbose=0, callbacks=[callback], **validation)
    server = Server(runs)
    try:
        server.wait_until(lambda server: {"rate=0.1", "rate=0.1/validation", "keras/train"} <= {*server.get("runs")})
        server.wait_until(lambda server: "fit/outcome" in server.get("plugin/text/tags").get("rate=0.1", ()))
        yield server
    finally:
        server.process.terminate()
        server.process.wait(timeout=30)


def test_scalars_of_training_and_validation_overlay_on_those_of_keras(server):
    for fold, tags in {
        "train": ("epoch_loss", "epoch_accuracy", "batch_loss", "epoch_learning_rate"),
        "validation": ("epoch_loss", "epoch_accuracy", "evaluation_loss_vs_iterations"),
    }.items():
        for tag in tags:
            ours, theirs = (
                [point[1:] for point in server.get("plugin/scalars/scalars", run=f"{run}/{fold}", tag=tag)]
                for run in ("rate=0.01", "keras")
            )
            assert ours == theirs, (fold, tag)
            assert len(ours) == (STEPS if tag == "batch_loss" else 3)
    losses = server.get("plugin/scalars/scalars", run="rate=0.01/train", tag="step/loss")
    assert [step for _, step, _ in losses] == list(range(1, STEPS + 1))


def test_the_custom_layout_has_noise_timing_and_learning_rate(server):
    layout = server.get("plugin/custom_scalars/layout")
    charts = {category["title"]: [chart["title"] for chart in category["chart"]] for category in layout["category"]}
    assert "learning rate" in charts["training"]
    assert "noise scale and its interval" in charts["gradient noise"]
    assert charts["timing"] == ["steps per second"]
    for category in layout["category"]:  # and each chart finds curves
        for chart in category["chart"]:
            for tag in chart["multiline"]["tag"] if "multiline" in chart else []:
                found = server.get("plugin/custom_scalars/scalars", run="rate=0.01/train", tag=tag)
                assert found["tag_to_events"], (chart["title"], tag)


def test_histograms(server):
    tags = server.get("plugin/histograms/tags")["rate=0.01/train"]
    names = {f"{kind}/{name}" for kind in ("weights", "gradients", "updates") for name in ("conv/kernel", "top/bias")}
    assert names <= {"/".join(tag.split("/")[:1] + tag.split("/")[-2:]) for tag in tags}
    points = server.get("plugin/histograms/histograms", run="rate=0.01/train", tag=next(t for t in tags if "conv/kernel" in t))
    assert [step for _, step, _ in points] == [4, 8, 12]
    assert sum(count for _, _, count in points[0][2]) == 3 * 3 * 2


def test_text(server):
    plan, outcome = (
        server.get("plugin/text/text", run="rate=0.01", tag=tag)[-1]["text"] for tag in ("fit/plan", "fit/outcome")
    )
    assert "bit-identical to model.fit" in plan
    assert "ran to the end of epoch 3" in outcome
    assert f"steps: {STEPS}" in outcome


def test_the_graph_of_a_step(server):
    graph = server.get("plugin/graphs/graph", run="rate=0.01/train", conceptual="false").decode()
    assert 'op: "Conv2D"' in graph
    assert 'op: "Conv2DBackpropFilter"' in graph


def test_images(server):
    (image,) = server.get("plugin/images/images", run="rate=0.01/train", tag="images", sample="0")
    assert image["step"] == 1
    query = dict(urllib.parse.parse_qsl(image["query"]))
    assert server.get("plugin/images/individualImage", **query).startswith(b"\x89PNG")


def test_hparams(server):
    statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    request = {"experimentName": "", "allowedStatuses": statuses, "colParams": [], "startIndex": 0, "sliceSize": 9}
    groups = server.get("plugin/hparams/session_groups", request)["sessionGroups"]
    assert sorted(group["hparams"]["learning_rate"] for group in groups) == [0.01, 0.1]
    metrics = {value["name"]["tag"] for value in groups[0]["metricValues"] if not value["name"]["group"]}
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= metrics


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if chromium.PATH is None:
        pytest.skip("Chromium isn't installed: apt-get install chromium")
    ARTEFACTS.mkdir(exist_ok=True)
    page = chromium.Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.mark.parametrize(
    ("tab", "texts", "least"),
    [
        ("scalars", ("batch_loss", "epoch_loss", "rate=0.01/validation"), {"path.line": 2}),  # most charts are folded up
        ("custom_scalars", ("training", "learning rate", "steps per second"), {"path.line": 40, "path.area": 2}),
        ("hparams", ("learning_rate", "batch_size", "accuracy", "0.010000", "0.10000"), {"vaadin-grid-cell-content": 27}),
    ],
)
def test_the_page_is_drawn(server, page, tab, texts, least):
    page.open("about:blank")
    page.open(f"{server.url}#{tab}")

    def drawn(text, elements):
        busy = "paper-spinner-lite" in elements or "Matches (0)" in text
        return not busy and {*texts} <= {*text.split("\n")} and all(elements.get(each, 0) >= n for each, n in least.items())

    try:
        page.wait_until(drawn)
    finally:
        page.screenshot(ARTEFACTS / f"{tab}.png")
