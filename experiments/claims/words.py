"""Figures in words. Imports nothing heavy: the report uses it too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def short(value: float) -> str:
    """A number in three significant digits or so."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def said(value: Any) -> str:
    """A figure as it stands in result.json, in words."""
    if isinstance(value, dict):
        return str(value.get("says") or ", ".join(f"{name} {said(each)}" for name, each in value.items()))  # says: an effect
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return short(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(said, value))
    return str(value)


def in_words(settled: Mapping[str, Any]) -> str:
    """A settled claim's verdict, and what it depends on."""
    return f"**{settled['verdict']}**" + (f" on {settled['on']}" if settled["on"] else "")
