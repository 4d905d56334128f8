"""What is being traced."""

from __future__ import annotations

import contextvars

for_xla = contextvars.ContextVar("for_xla", default=False)  # whether it is for a program of XLA's
