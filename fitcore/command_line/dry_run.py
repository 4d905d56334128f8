"""--dry_run: what an experiment's first fit would do, said without doing it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from fitcore import fitting, keras_private
from fitcore.engine import Engine
from fitcore.explain import explain

STOPS = "Nothing was trained. The run would go on from here; what comes after may depend on it, so --dry_run stops."


class DryRunOver(SystemExit):
    """The first training was reached."""


@contextlib.contextmanager
def dry_run(run: str) -> Iterator[None]:
    """Within it the first `fitcore.fit` is explained, and nothing is trained: whatever would train leaves by `DryRunOver`.

    Args:
      run: the directory that stands in for the run's; the explanation calls it RUN.
    """

    def begins(given: Mapping[str, Any]) -> NoReturn:
        print(explain(**given).replace(run, "RUN"))
        raise DryRunOver(_say())

    def trains(what: str) -> Callable[..., NoReturn]:
        def method(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
            print(f"{what}, which fitcore.explain doesn't explain.")
            raise DryRunOver(_say())

        return method

    keras_class = keras_private.trainer_class
    replaced = [
        (keras_class, "fit", trains("Keras's own model.fit")),
        (keras_class, "train_on_batch", trains("Keras's own model.train_on_batch")),
        (Engine, "train", trains("A loop of the experiment's own, by Engine.train")),
        (Engine, "train_on_batch", trains("fitcore.train_on_batch")),
    ]
    before = [vars(owner)[name] for owner, name, _ in replaced]
    for owner, name, method in replaced:
        setattr(owner, name, method)
    fitting.on_begin = begins
    try:
        yield
    finally:
        fitting.on_begin = None
        for (owner, name, _), method in zip(replaced, before):
            setattr(owner, name, method)


def _say() -> int:
    print(STOPS)
    return 0
