"""What a command shows on its terminal: a line for what takes long, and nothing of TensorFlow's chatter.

TensorFlow's C++ code writes to file descriptor 2 while it is loaded and while programs are traced. TF_CPP_MIN_LOG_LEVEL takes
away only what is logged after it was read, and at level 3, which silences the last of it, real errors as well. So a command's
descriptor 2 leads through a process of its own, this file run by Python. That leaves out lines which are known to say nothing,
and passes on all else at once, byte for byte, also what the command wrote last before it crashed or was killed. Python's
`sys.stderr` doesn't go that way: warnings and tracebacks go where they went, and a terminal stays one.

It has to start before TensorFlow is loaded, which importing anything of fitcore does: hence a module beside the package. It
starts in commands only, and not with TF_CPP_MIN_LOG_LEVEL=0, which shows everything.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import select
import subprocess
import sys
import time


def _logged(severity: bytes, message: bytes) -> bytes:
    """Pattern of a line of TensorFlow's log, with the heads of 2.21 and of 2.20:

    E0000 00:00:1795570024.590987   14152 cuda_platform.cc:52] ...
    2026-11-25 01:38:33.113889: E external/local_xla/xla/stream_executor/cuda/cuda_platform.cc:51] ...
    """
    return rb"(?:%b\d{4} [\d:.]+ +\d+|\d{4}-\d\d-\d\d [\d:.]+: %b) [\w./-]+:\d+\] %b" % (severity, severity, message)


CHATTER = (
    # Each of the copies of absl that are loaded says so before its first line.
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR",
    # Notes, which TF_CPP_MIN_LOG_LEVEL=1 hides, but those of loading are written before it is read: oneDNN rounds, no GPU.
    _logged(b"I", b""),
    # No CUDA driver on this machine. (Other numbers mean that there is one, which fails: that is shown.)
    _logged(b"E", rb"failed call to cuInit: .*UNKNOWN ERROR \(303\)"),
    # tf.data's optimizer swaps an op for one without this attribute, in each new program that reads a dataset.
    _logged(b"E", rb"NodeDef mentions attribute \w+ which is not in the op definition"),
    # oneDNN has no kernels for this type, in each new program of doubles: the ordinary ones serve.
    _logged(b"W", rb"Not handling type DT_\w+\n"),
    # Two libraries of TensorFlow register the same, on machines with a GPU.
    _logged(b"E", rb"Unable to register cu(?:DNN|FFT|BLAS) factory"),
    _logged(b"W", rb"computation placer already registered"),
)

PATIENCE = 0.1  # seconds that a line may take to be written, so that it is still seen as a whole

_started = False


def start(name: str) -> None:
    """Keep TensorFlow's chatter out of this process's error output, and say that the command is being loaded.

    Does so in a command only: called as `start(__name__)`, in a script that is being run, or in a package that
    `python -m PACKAGE` or `python -m PACKAGE.MODULE` runs. Elsewhere, where script or package are imported, it does nothing.

    Args:
      name: the caller's `__name__`.
    """
    global _started
    command = _command(name)
    if command is None or sys.stderr is None or _started:
        return
    _started = True
    say(f"Loading {command} ...")
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1") != "0":
        _filter_descriptor_2()


def module() -> str | None:
    """The module that Python is about to run by -m, while it imports the packages around that; else None."""
    if sys.argv[0] != "-m":
        return None
    return re.sub("^-[a-zA-Z]*m", "", sys.orig_argv[-len(sys.argv)])  # -mNAME is allowed too


def say(what: str) -> None:
    """Write a line of progress to the error output, after all that was printed before."""
    sys.stdout.flush()
    print(what, file=sys.stderr, flush=True)


def _command(name: str) -> str | None:
    """What is being run, if it is the module called `name` or, while that is imported, something in it."""
    if name == "__main__":
        return os.path.basename(sys.argv[0])
    running = module()
    return running if running is not None and f"{running}.".startswith(f"{name}.") else None


def _filter_descriptor_2() -> None:
    target = os.dup(2)
    source, sink = os.pipe()
    # In a session of its own: Ctrl-C is the command's.
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
    process = subprocess.Popen(command, stdin=source, stdout=target, start_new_session=True)
    sys.stderr = os.fdopen(target, "w", 1, sys.stderr.encoding, sys.stderr.errors, closefd=False)
    os.dup2(sink, 2)
    os.close(source)
    os.close(sink)

    @atexit.register
    def drain() -> None:  # so that nothing comes after the shell's next prompt
        os.dup2(target, 2)
        with contextlib.suppress(subprocess.TimeoutExpired):  # if what the command has started goes on writing
            process.wait(timeout=1)


def pass_on(source: int, target: int) -> None:
    """Copy what comes from one file descriptor to another until its end, but for lines of chatter.

    Held back is only the beginning of a line that might become one, and that for `PATIENCE` seconds at most.
    """
    chatter = re.compile(b"|".join(CHATTER))
    held, until = b"", 0.0
    inside = False  # a line whose beginning was passed on
    ended = False
    while not ended:
        in_time = select.select([source], [], [], max(0.0, until - time.monotonic()) if held else None)[0]
        data = os.read(source, 1 << 16) if in_time else b""
        ended = bool(in_time) and not data
        passed = b""
        for line in re.findall(rb"[^\n]*\n|[^\n]+", held + data):
            whole = line.endswith(b"\n")
            if not inside and not whole and data and line[:1] in b"IEW2":
                until = until if held else time.monotonic() + PATIENCE
                held = line
                break
            if inside or not (whole and chatter.match(line)):
                passed += line
            inside = not whole
        else:
            held = b""
        while passed:
            select.select([], [target], [])  # a terminal may be set not to block
            passed = passed[os.write(target, passed) :]


if __name__ == "__main__":
    pass_on(0, 1)
