"""What --sweep says: flags and their values, and which combinations of them. Needs no TensorFlow.

learning_rate=1e-3,1e-2;seed=0..9              each rate with each of ten seeds: 20 settings
zip(epochs=1,10;learning_rate=1e-2,1e-3);seed=0..2   the first of these with the first of those, ...: 2 times 3
optimizer="adam:1e-3,beta_1=0.8","sgd:0.1"     a value with a comma in it is quoted
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Mapping

Setting = dict[str, str]  # the text of each swept flag's value, by its name
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")  # both ends included
_NAME = 120  # characters of a folder's name


class SweepError(ValueError):
    """The text is no sweep."""


def parse(text: str) -> list[Setting]:
    """All settings, in the order in which they are run: the last flag's values change fastest.

    Raises:
      SweepError: the text is no sweep, or a flag is there twice.
    """
    groups: list[list[Setting]] = []
    for part in split(text, ";"):
        paired = re.fullmatch(r"\s*zip\((.*)\)\s*", part, re.DOTALL)
        if paired is None:
            groups.append([{name: value} for name, values in [_values(part)] for value in values])
            continue
        flags = [_values(each) for each in split(paired[1], ";")]
        if len({len(values) for _, values in flags}) > 1:
            counts = ", ".join(f"{name} {len(values)}" for name, values in flags)
            raise SweepError(f"zip(...) pairs values one by one, so there must be as many of each. Received: {counts}")
        groups.append([dict(zip([name for name, _ in flags], values)) for values in zip(*(values for _, values in flags))])
        if len(groups[-1][0]) < len(flags):
            raise SweepError(f"a flag is in {part.strip()!r} twice")
    names = [name for group in groups for name in group[0]]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SweepError(f"{twice[0]!r} is swept twice")
    return [{name: value for each in chosen for name, value in each.items()} for chosen in itertools.product(*groups)]


def _values(part: str) -> tuple[str, list[str]]:
    """(flag, its values) of NAME=VALUE,VALUE."""
    name, equals, text = part.partition("=")
    name = name.strip().lstrip("-")
    if not equals or not name.isidentifier():
        raise SweepError(f"{part.strip()!r} must be like learning_rate=1e-3,1e-2 or seed=0..9")
    values: list[str] = []
    for value in (each.strip() for each in split(text, ",")):
        whole = _RANGE.fullmatch(value)
        if whole:
            first, last = int(whole[1]), int(whole[2])
            if last < first:
                raise SweepError(f"{name}={value}: the first number must not be above the last")
            values += map(str, range(first, last + 1))
        else:
            values.append(value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value)
    repeated = [value for value in values if values.count(value) > 1]
    if repeated:
        raise SweepError(f"{name} has the value {repeated[0]!r} twice")
    return name, values


def split(text: str, separator: str) -> list[str]:
    """Split, but not inside brackets and quotes."""
    pieces, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character in "[(") - (character in "])")
        if character == separator and depth == 0 and not quote:
            pieces.append("")
        else:
            pieces[-1] += character
    return pieces


def folder_of(setting: Mapping[str, str]) -> str:
    """The name of a setting's folder: NAME=VALUE,...; with a checksum where that is too long, or no name for a folder."""
    text = ",".join(f"{name}={value}" for name, value in setting.items())
    plain = re.sub(r"[^\w.,:=+-]", "_", text)[:_NAME]
    return plain if plain == text else f"{plain},{zlib.crc32(text.encode()):08x}"
