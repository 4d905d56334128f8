"""A run that survives: saved as it goes, and brought back in another process with the same bits.

config.py       where and how often: what users give to fit
folders.py      a folder for each of several fits
calls.py        the fits of a script that is run again from its beginning
saver.py        when to save, and where a run goes on: what the outer loop calls; signals
state.py        a run's state, taken and put back
store.py        a folder of checkpoints: whole or not there, checked, locked, pruned
callbacks.py    what Keras's callbacks hold
randomness.py   global random generators
fingerprint.py  what must be alike to go on
plain.py        nested state as JSON and arrays
"""

from fitcore.checkpoint.calls import Calls
from fitcore.checkpoint.config import Checkpoint
from fitcore.checkpoint.folders import Folders, leaving_when_preempted
from fitcore.checkpoint.saver import Preempted, Saver
from fitcore.checkpoint.store import CheckpointError, CheckpointInUseError
from fitcore.cluster.role import PREEMPTED

__all__ = [
    "PREEMPTED",
    "Calls",
    "Checkpoint",
    "CheckpointError",
    "CheckpointInUseError",
    "Folders",
    "Preempted",
    "Saver",
    "leaving_when_preempted",
]
