"""Start the worker processes of one training on this machine, or say what to start on several.

    python -m fitcore.cluster --workers=2 -m experiments.digits --strategy=multiworker --epochs=3
    python -m fitcore.cluster --workers=2 script.py args of the script
    python -m fitcore.cluster --workers=4 --print [--hosts=a,b,c,d] -m experiments.digits --strategy=multiworker

Each worker runs the same command with a TF_CONFIG of its own, which `tf.distribute.MultiWorkerMirroredStrategy` reads. What
they print comes line by line, "[worker 1] " before it. Ctrl-C, SIGTERM and SIGHUP are passed on to all; a second one kills.

When a worker fails or is killed, this is said within a second; the others are asked to end, and killed 5 seconds later. When
one hangs, this is said after --timeout seconds without a sign of life: fitcore gives one whenever a compiled call is back, a
few times a second, and nothing else does. The exit status is that of the worker that failed; 128 + N if signal N killed it;
124 if one hung.

With --restarts=K all workers are started again after such an end, K times at most. That goes on where the job was if it saves
checkpoints into a folder that stays the same: for experiments --logdir and --checkpoint_every.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fitcore.cluster.job import run
from fitcore.cluster.printed import printed

TIMEOUT = 600.0  # seconds; tracing a large model takes minutes


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fitcore.cluster",
        description=__doc__.split("\n", 1)[0],
        usage="%(prog)s --workers=N [options] (-m MODULE | SCRIPT) [arguments of it]",
    )
    parser.add_argument("--workers", metavar="N", type=int, required=True, help="how many worker processes")
    help_timeout = "seconds without a sign of life after which a worker counts as hung; 0: never (default: %(default)g)"
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=TIMEOUT, help=help_timeout)
    help_restarts = "how often to start all workers again after one failed or hung (default: %(default)s)"
    parser.add_argument("--restarts", metavar="K", type=int, default=0, help=help_restarts)
    help_print = "start nothing, but print what to run on N hosts: by hand, under Slurm, in Kubernetes"
    parser.add_argument("--print", action="store_true", help=help_print)
    parser.add_argument(
        "--hosts", metavar="HOST,...", type=lambda text: text.split(","), default=[], help="for --print: N hosts"
    )
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, default=[], help="the module to run, and its arguments")
    parser.add_argument("script", nargs=argparse.REMAINDER, help="the script to run, and its arguments")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers must be at least 1. Received: {options.workers}")
    if options.timeout < 0 or options.restarts < 0:
        parser.error(f"--timeout and --restarts must not be negative. Received: {options.timeout:g} and {options.restarts}")
    if options.hosts and (not options.print or len(options.hosts) != options.workers):
        parser.error(f"--hosts goes with --print, and names as many hosts as there are workers. Received: {options.hosts}")
    program = ["-m", *options.module] if options.module else options.script
    if not program:
        parser.error("name a module (-m MODULE) or a script to run")
    if options.print:
        print(printed(["python", *program], options.workers, options.hosts))
        return 0
    return run([sys.executable, *program], options.workers, options.timeout, options.restarts)


if __name__ == "__main__":
    sys.exit(main())
