"""The questions as they are run: from the command line, into a report."""

import json
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing.flagsaver import flagsaver

from experiments import report
from experiments.claims import data, markdown
from experiments.claims.question import Findings, Question, raised
from experiments.claims.statistics import mean_of
from experiments.claims.verdicts import REFUTED, SUPPORTED, Claim, Verdict, more_than
from fitcore.command_line import launch


@pytest.fixture(autouse=True)
def parsed_flags():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["tests"])


def grows(gain: object) -> Verdict:
    """Supported if the gain is above 0, refuted if not."""
    return Verdict(SUPPORTED if more_than(gain) else REFUTED, f"gain {gain}")


QUESTION = Question("A", "Does it grow?", (Claim("A-a", "it grows", grows), Claim("A-b", "it takes long", grows, timed=True)))


def findings_of(folder, gains, seconds):
    """What a question leaves behind that found these."""
    folder.mkdir()
    findings = Findings(QUESTION, launch.RunDirectory(folder), parts=2)
    findings.begin("one thing")
    assert list(findings.each_seed()) == findings.seeds()
    findings.used("numbers made up for a test")
    findings.example("A1", "a failure", {"a truth": True, "a list": [1.0, 2.5]}, raised(lambda: [][1]))
    findings.settle("A-a", gain=mean_of(gains, "%"))
    findings.begin("another")
    findings.settle("A-b", gain=mean_of(seconds, "s"))
    findings.plot("a plot", lambda axes: axes.plot(gains))
    result = json.loads(json.dumps(findings.result()))
    (folder / "environment.json").write_text(
        json.dumps(
            dict.fromkeys(("platform", "cpu_cores", "deterministic", "git_commit", "started"), "?") | {"devices": ["cpu"]}
        )
    )
    return result


def test_what_was_found_is_told(tmp_path, capsys):
    result = findings_of(tmp_path / "A", [0.14, 0.15, 0.16], [1.0, 1.2])
    printed = capsys.readouterr().out
    assert "[  0 %] one thing" in printed
    assert "[  5 %] one thing: seed " in printed  # a tenth of the seeds, in the first of two parts
    assert "[ 50 %] another" in printed
    assert "A-a: it grows: **supported**; gain" in printed
    assert set(result["seconds"]) == {"one thing", "another"}
    about = {"command": "python -m experiments.report", "sha256": "0" * 64, "versions": {"python": "3"}}
    path = markdown.write(
        tmp_path, {"A": result}, {"A": tmp_path / "A"}, modules={"A": "one_pass"}, claim_ids=["A-a", "A-b", "B-a"], **about
    )
    text = path.read_text()
    for line in (
        "**supported** | gain: 15.0 % (12.5 to 17.5; n = 3)",
        "| [B-a](#b-a) | (not run) |",
        "IndexError: list index out of range",
        "The rule: Supported if the gain is above 0, refuted if not.",
        "- a truth: yes",
        "- numbers made up for a test",
    ):
        assert line in text
    assert (tmp_path / "results" / "A.png").read_bytes() == (tmp_path / "A" / "A.png").read_bytes()
    assert list((tmp_path / "A" / "findings").glob("events*"))


def test_a_claim_left_open_is_an_error(tmp_path):
    findings = Findings(QUESTION, launch.RunDirectory(tmp_path), parts=1)
    findings.settle("A-a", gain=mean_of([1.0, 2.0]))
    with pytest.raises(RuntimeError, match="A-b"):
        findings.result()


def test_the_same_findings_have_the_same_digest_whatever_the_clock(tmp_path):
    first, second, third = (
        findings_of(tmp_path / name, gains, seconds)
        for name, gains, seconds in (("a", [1, 2], [1.0, 1.1]), ("b", [1, 2], [2.0, 2.1]), ("c", [1, 3], [1.0, 1.1]))
    )
    digests = [report.numbers_sha256({"A": result}) for result in (first, second, third)]
    assert digests[0] == digests[1] != digests[2]
    assert (tmp_path / "a" / "A.png").read_bytes() == (tmp_path / "b" / "A.png").read_bytes()


def test_a_finished_question_is_not_run_again(tmp_path, monkeypatch, capsys):
    """Nor is one that fails taken for finished; its last words are shown."""
    runs = tmp_path / "runs" / f"quick-seed0-{report.fingerprint()}"
    runs.mkdir(parents=True)
    result = findings_of(runs / "A", [0.14, 0.15, 0.16], [1.0, 1.2])
    (runs / "A" / "result.json").write_text(json.dumps(result))
    monkeypatch.setattr(report.subprocess, "Popen", lambda *_, **__: pytest.fail("it was run again"))
    with flagsaver(quick=True, only=["A"], runs=str(tmp_path / "runs")):
        report.main(["report"])
    assert "A-a  it grows: supported" in capsys.readouterr().out
    assert (runs / "RESULTS.md").exists()
    monkeypatch.undo()

    monkeypatch.setitem(report.MODULES, "A", "no_such_module")
    with flagsaver(quick=True, only=["A"], runs=str(tmp_path / "others")), pytest.raises(SystemExit, match="no experiment"):
        report.main(["report"])


# What each question leaves behind: runs in TensorBoard, what its examples raise as written, the bits it finds to agree.
EVENTS = {
    "A": ["A1", "A2", "A3"],
    "B": ["B1", "B2", "B3"],
    "C": ["C1"],
    "D": ["D2 shuffle=False", "D2 shuffle=batch", "D2 shuffle=True"],
    "E": ["E1"],
}
FAILURES = {"B": ["runs", "TypeError", "ValueError"], "C": ["runs", "runs", "ValueError"]}
SAME_BITS = {
    "A": [],
    "B": ["LearningRateScheduler ends in the same bits", "fitcore's schedule, compiled into the loop, ends"],
    "C": ["3 calls of Keras's end", "fitcore's, by one call and by many", "100 calls that are told", "fitcore's schedule as a"],
    "D": ["Keras's train_on_batch returns the same bits"],
    "E": ["2 calls end in the bits of one call of 2", "Keras", "fitcore.EarlyStopping over calls of one epoch ends"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "one_pass --later_epochs=3 --many_epochs=2 --orders=2",
        "convergence --epochs_B1=4 --epochs_B3=3 --patience_B3=1",
        "lstm_fits --epochs=3 --patience=1",
        "on_batch --epochs=2 --rows=96",
        "repeated_fits --calls=2 --most=3 --patience=1",
    ],
    ids=lambda command: command.partition(" ")[0],
)
def test_a_question_runs_from_its_examples_to_its_verdicts(command, tmp_path):
    module, *own_flags = command.split()
    folder, few = tmp_path / "run", tmp_path / "few.npz"
    digits = data.digits()
    images, images_test = ((255 * x).astype("uint8") for x in (digits.x[:600], digits.x_test[:100]))
    np.savez(few, x_train=images, y_train=digits.y[:600], x_test=images_test, y_test=digits.y_test[:100])
    full = [sys.executable, "-m", f"experiments.{module}", f"--logdir={folder}", f"--mnist={few}", "--repeats=2", *own_flags]
    subprocess.run(full, check=True, cwd=report.ROOT, stdout=subprocess.PIPE)
    result = json.loads((folder / "result.json").read_text())
    letter = result["question"]
    assert report.MODULES[letter] == module
    assert [example["id"] for example in result["examples"]] == [f"{letter}{i}" for i in (1, 2, 3)]
    assert [claim["id"] for claim in result["claims"]] == [claim for claim in report.CLAIMS if claim[0] == letter]
    assert result["data"]
    for plot in result["plots"]:
        assert (folder / plot["file"]).stat().st_size > 10_000
    events = {path.parent.relative_to(folder).parts[0] for path in folder.rglob("events*")}
    assert {"findings", *EVENTS[letter]} <= events
    failures = [example["as_written"].partition(":")[0] for example in result["examples"]]
    assert failures == FAILURES.get(letter, ["runs"] * 3)
    found = {name: value for example in result["examples"] for name, value in example["found"].items()}
    for beginning in SAME_BITS[letter]:
        (value,) = (value for name, value in found.items() if name.startswith(beginning))
        assert (value["mean"] if isinstance(value, dict) else value) == 1, beginning


def test_an_unknown_question_is_named():
    with flagsaver(only=["F"]), pytest.raises(SystemExit, match=r"--only takes letters of A, B, C, D, E\. Received: F"):
        report.main(["report"])


def test_a_claim_without_an_effect_is_in_the_table_too():
    claim = {"id": "A-e", "text": "one", "verdict": "refuted", "on": "", "measurements": {"updates": {"A1": 4, "A2": 125}}}
    assert "| updates: A1 4, A2 125 |" in markdown.table_of({"A": {"claims": [claim]}}, ["A-e"], {"A": "python"})
