"""One process of the hunt: `python -m benchmarks.hunt.child` with a request as JSON; a JSON line for each thing that happens."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.hunt.case import Case
from benchmarks.hunt.draw import draw
from benchmarks.hunt.script import namespace, script
from benchmarks.hunt.shrink import shrunk
from benchmarks.hunt.trial import Result, judge

FAILURES = ("differs", "raises")


def failures(case: Case) -> list[Result]:
    """Results of a case that speak against fitcore."""
    return [each for each in judge(namespace(case), case.variants) if each.verdict in FAILURES]


def smallest(case: Case, result: Result, seconds: float) -> tuple[Case, Result]:
    """The smallest case in which the same variant fails in the same manner, and how it fails."""
    found = [result]

    def fails(smaller: Case) -> bool:
        alike = [each for each in failures(smaller) if (each.variant, each.verdict) == (result.variant, result.verdict)]
        found[1:] = alike[:1] or found[1:]
        return bool(alike)

    small = shrunk(_only(case, result.variant), fails, seconds)
    return small, found[-1]


def _only(case: Case, variant: str) -> Case:
    return Case(**{**vars(case), "variants": (variant,)})


def run(seed: int, index: int, setting: dict[str, Any], out: str, shrink: float) -> None:
    """One case."""
    say(begin=index)
    start = time.monotonic()
    case = draw(seed, index)
    results = judge(namespace(case), case.variants)
    kinds = [list(each) for each in case.kinds()]
    say(index=index, results=[vars(each) for each in results], kinds=kinds, seconds=round(time.monotonic() - start, 1))
    for result in results:
        if result.verdict in FAILURES:
            say(shrinking=index)
            small, how = smallest(case, result, shrink)
            title = f"Case {index} of seed {seed}, smallest. fitcore, {how.variant}: {how.verdict}: {how.says}"
            path = Path(out, f"{seed}_{index}_{how.variant.replace(' ', '_')}.py")
            path.write_text(script(small, setting, title.replace("\\", "/").replace('"""', "'''")))
            layers = [node.kind for node in small.nodes]
            say(failure=index, variant=how.variant, verdict=how.verdict, says=how.says, script=str(path), layers=layers, case=small.to_json())
    say(end=index)


def say(**what: Any) -> None:
    print("HUNT " + json.dumps(what), flush=True)


def main() -> None:
    request = json.loads(sys.argv[1])
    for name, count in request["setting"].get("threads", {}).items():
        getattr(tf.config.threading, f"set_{name}_op_parallelism_threads")(count)
    tf.get_logger().setLevel("ERROR")
    warnings.simplefilter("ignore")
    os.makedirs(request["out"], exist_ok=True)
    for index in request["indices"]:
        run(request["seed"], index, request["setting"], request["out"], request["shrink"])


if __name__ == "__main__":
    main()
