"""A run that survives: saved as it goes, and brought back in another process with the same bits.

config.py       where and how often: what users give to fit
saver.py        when to save, and where a run goes on: what the outer loop calls; signals
state.py        a run's state, taken and put back
store.py        a folder of checkpoints: whole or not there, checked, locked, pruned
callbacks.py    what Keras's callbacks hold
events.py       TensorBoard's event files
randomness.py   global random generators
fingerprint.py  what must be alike to go on
plain.py        nested state as JSON and arrays
"""

from fitcore.checkpoint.config import Checkpoint
from fitcore.checkpoint.saver import PREEMPTED, Preempted, Saver
from fitcore.checkpoint.store import CheckpointError, CheckpointInUseError

__all__ = ["PREEMPTED", "Checkpoint", "CheckpointError", "CheckpointInUseError", "Preempted", "Saver"]
