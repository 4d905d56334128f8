"""The worker processes of a job on this machine: they start, are heard and end together."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from fitcore.cluster.role import BEAT, PREEMPTED

POLL = 0.1  # seconds between two looks at the workers
# Seconds that workers get to leave by themselves: when one has failed, the others wait for it inside an op, and can't; after a
# signal, or when one has saved itself (PREEMPTED), they save a checkpoint.
GRACE_AFTER_FAILURE, GRACE_AFTER_SIGNAL = 5.0, 60.0
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # prctl(2)


def tf_config(hosts: Sequence[str], index: int) -> str:
    """TF_CONFIG of worker `index` of a cluster whose workers listen at these "host:port"."""
    return json.dumps({"cluster": {"worker": list(hosts)}, "task": {"type": "worker", "index": index}})


def free_ports(count: int) -> list[int]:
    """As many different ports that nobody listens at on this machine. Another process may take one before it is used."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Job:
    """Workers on this machine, each a process that runs the same command with a TF_CONFIG of its own.

    Args:
      command: what each runs.
      workers: how many.
      timeout: seconds without a sign of life from a worker after which it counts as hung: since it began, and since a compiled
        call of fitcore's was last back. 0: forever.
    """

    def __init__(self, command: Sequence[str], workers: int, timeout: float) -> None:
        self._command, self._count, self._timeout = command, workers, timeout
        self._signals: list[int] = []

    @property
    def was_signalled(self) -> bool:
        """Whether a signal that ends the job came."""
        return bool(self._signals)

    def run(self) -> int:
        """Start the workers and wait until all have ended; returns 0, or the status of the one that failed first.

        Shells' way: 128 + N of one that signal N ended; 124, as of timeout(1), if one hung.
        """
        with tempfile.TemporaryDirectory(prefix="fitcore-cluster-") as folder, self._heard():
            beats = [Path(folder, str(i)) for i in range(self._count)]
            hosts = [f"127.0.0.1:{port}" for port in free_ports(self._count)]
            workers: list[subprocess.Popen[str]] = []
            outputs: list[threading.Thread] = []
            began = time.monotonic()
            try:
                for i, beat in enumerate(beats):
                    beat.touch()
                    workers.append(self._start(tf_config(hosts, i), beat))
                    outputs += [_prefixed(i, workers[i].stdout, sys.stdout), _prefixed(i, workers[i].stderr, sys.stderr)]
                return self._wait(workers, beats, began)
            finally:
                for worker in workers:  # of a launcher that fails itself; all others have ended
                    worker.kill()
                    worker.wait()
                for thread in outputs:
                    thread.join(timeout=1)  # a grandchild may hold the pipe

    def _start(self, config: str, beat: Path) -> subprocess.Popen[str]:
        environment = {**os.environ, "TF_CONFIG": config, BEAT: str(beat), "PYTHONUNBUFFERED": "1"}
        parent = os.getpid()
        prctl = ctypes.CDLL(None).prctl

        def end_with_launcher() -> None:  # however the launcher ends, SIGKILL too
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        return subprocess.Popen(
            self._command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # a terminal's Ctrl-C comes by way of the launcher, once
            preexec_fn=end_with_launcher,
        )

    def _wait(self, workers: Sequence[subprocess.Popen[str]], beats: Sequence[Path], began: float) -> int:
        sent = 0
        while any(worker.poll() is None for worker in workers):
            for number in self._signals[sent:]:
                _send(workers, number)
            if self._signals and not sent:
                self._end(workers, GRACE_AFTER_SIGNAL)
                break
            sent = len(self._signals)
            failed = _failed(workers)
            if failed is not None:
                seconds = time.monotonic() - began
                _say(f"worker {failed} (pid {workers[failed].pid}) {_how(workers[failed])} after {seconds:.1f} s.")
                if workers[failed].returncode == PREEMPTED:
                    self._end(workers, GRACE_AFTER_SIGNAL)
                else:
                    _send(workers, signal.SIGTERM)
                    self._end(workers, GRACE_AFTER_FAILURE)
                return _status(workers[failed])
            if self._timeout and self._hung(workers, beats):
                _send(workers, signal.SIGTERM)
                self._end(workers, GRACE_AFTER_FAILURE)
                return 124
            time.sleep(POLL)
        failed = _failed(workers)
        if failed is None:
            return 0
        _say(f"worker {failed} (pid {workers[failed].pid}) {_how(workers[failed])}.")
        return _status(workers[failed])

    def _hung(self, workers: Sequence[subprocess.Popen[str]], beats: Sequence[Path]) -> bool:
        """Whether one that runs has given no sign of life for too long; says so."""
        silent = {
            i: time.time() - beat.stat().st_mtime
            for i, (worker, beat) in enumerate(zip(workers, beats))
            if worker.returncode is None
        }
        if max(silent.values(), default=0.0) < self._timeout:
            return False
        each = ", ".join(f"worker {i} (pid {workers[i].pid}) for {seconds:.1f} s" for i, seconds in silent.items())
        _say(f"no sign of life from {each}: --timeout={self._timeout:g}. One of them hangs.")
        return True

    def _end(self, workers: Sequence[subprocess.Popen[str]], seconds: float) -> None:
        """Wait for the workers to end, and kill those that haven't in time; at a further signal at once."""
        heard, end = len(self._signals), time.monotonic() + seconds
        while any(worker.poll() is None for worker in workers) and time.monotonic() < end and len(self._signals) == heard:
            # Without one that has failed the others can't save themselves.
            if any(worker.poll() not in (None, 0, PREEMPTED) for worker in workers):
                end = min(end, time.monotonic() + GRACE_AFTER_FAILURE)
            time.sleep(POLL)
        left = [i for i, worker in enumerate(workers) if worker.poll() is None]
        if left:
            _say(f"killing {', '.join(f'worker {i} (pid {workers[i].pid})' for i in left)}.")
        for worker in workers:
            worker.kill()
            worker.wait()

    @contextlib.contextmanager
    def _heard(self) -> Iterator[None]:
        """Within it signals are noted and do nothing else, so none comes while a process is started."""
        numbers = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, lambda number, _: self._signals.append(number)) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(command: Sequence[str], workers: int, timeout: float, restarts: int) -> int:
    """Run a job, and again while a worker fails and restarts are left; returns the last one's status."""
    for left in range(restarts, -1, -1):
        job = Job(command, workers, timeout)
        status = job.run()
        if status == 0 or job.was_signalled or left == 0:
            return status
        _say(f"starting all {workers} workers again, {left - 1} restarts left after this.")
    raise AssertionError("the last attempt returns")


def _failed(workers: Sequence[subprocess.Popen[str]]) -> int | None:
    """One that has failed: rather one that a signal ended, since others fail with an error when they lose it."""
    found = [i for i, worker in enumerate(workers) if worker.poll() not in (None, 0)]
    return min(found, key=lambda i: workers[i].returncode, default=None)  # -N: signal N


def _how(worker: subprocess.Popen[str]) -> str:
    status = worker.returncode
    if status == PREEMPTED:
        return f"has saved itself and left (exit status {PREEMPTED})"
    return f"failed with exit status {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"


def _status(worker: subprocess.Popen[str]) -> int:
    status: int = worker.returncode
    return status if status >= 0 else 128 - status


def _send(workers: Sequence[subprocess.Popen[str]], number: int) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(number)


def _say(what: str) -> None:
    sys.stdout.flush()
    print(f"fitcore.cluster: {what}", file=sys.stderr, flush=True)


def _prefixed(index: int, source: IO[str] | None, target: IO[str]) -> threading.Thread:
    """Copy a worker's output line by line, each with the worker's number before it, in a thread of its own."""

    def copy() -> None:
        assert source is not None
        for line in source:
            target.write(f"[worker {index}] {line.rstrip(chr(10))}\n")
            target.flush()

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    return thread
