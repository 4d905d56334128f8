"""Commands that measure: `python -m benchmarks.NAME --help`."""

import fitcore_terminal

fitcore_terminal.start(__name__)
