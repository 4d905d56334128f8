"""One process of the hunt: it is given a request as JSON, and prints a line of JSON for each thing that happens."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import tensorflow as tf

import fitcore
from benchmarks.hunt.case import Case
from benchmarks.hunt.draw import draw
from benchmarks.hunt.known import Known, kind_of, known_as
from benchmarks.hunt.script import namespace, script
from benchmarks.hunt.shrink import shrunk
from benchmarks.hunt.trial import FAILURES, Result, judge


def failing(case: Case, like: Result, by: Any = fitcore) -> Result | None:
    """How a case fails in the same variant and in the same manner as before; None if it doesn't."""
    for each in judge(namespace(case), (like.variant,), by, repeat=False):
        if (each.variant, each.verdict) == (like.variant, like.verdict) and _kind(each) == _kind(like):
            return each
    return None


def _kind(result: Result) -> str:
    """The class of the error; "" where there is none."""
    return result.says.split(":")[0] if result.verdict == "raises" else ""


def smallest(case: Case, result: Result, seconds: float, by: Any = fitcore) -> tuple[Case, Result]:
    """The smallest case that still fails so, and how it fails."""
    found = [result]

    def fails(smaller: Case) -> bool:
        how = failing(smaller, result, by)
        found.extend([] if how is None else [how])
        return how is not None

    return shrunk(dataclasses.replace(case, variants=(result.variant,)), fails, seconds), found[-1]


def run(seed: int, index: int, setting: dict[str, Any], out: str, shrink: float, known: list[Known]) -> None:
    """One case. A failure of no known kind is made small, and its kind is known then."""
    say(begin=index)
    start = time.monotonic()
    case = draw(seed, index)
    results = judge(namespace(case), case.variants, repeat=False)
    kinds = [list(each) for each in case.kinds()]
    say(index=index, results=[vars(each) for each in results], kinds=kinds, seconds=round(time.monotonic() - start, 1))
    failed = [result for result in results if result.verdict in FAILURES]
    for result in failed:
        before = known_as(case, result, known)
        if before is not None:
            say(again=before.case, index=index, variant=result.variant, verdict=result.verdict, says=result.says)
        elif result.variant != "exact" and failed[0].variant == "exact" and failed[0].verdict == result.verdict:
            say(again=index, index=index, variant=result.variant, verdict=result.verdict, says=result.says)
        else:
            say(shrinking=index)
            small, how = smallest(case, result, shrink)
            title = f"Case {index} of seed {seed}, smallest. fitcore, {how.variant}: {how.verdict}: {how.says}"
            path = Path(out, f"{seed}_{index}_{how.variant.replace(' ', '_')}.py")
            path.write_text(script(small, setting, title.replace("\\", "/").replace('"""', "'''")))
            layers = [node.kind for node in small.nodes]
            known.append(kind_of(index, small, how))
            say(
                failure=index,
                variant=how.variant,
                verdict=how.verdict,
                says=how.says,
                script=str(path),
                layers=layers,
                case=small.to_json(),
                known=dataclasses.asdict(known[-1]) | {"traits": sorted(known[-1].traits)},
            )
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
    known = [Known(**each | {"traits": frozenset(map(tuple, each["traits"]))}) for each in request["known"]]
    for index in request["indices"]:
        run(request["seed"], index, request["setting"], request["out"], request["shrink"], known)


if __name__ == "__main__":
    main()
