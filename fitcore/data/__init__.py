"""Where batches come from, in which order, and how far a run has got through them.

order.py    the order of an array's rows in one pass: Keras's own, or one recomputable from (seed, pass)
sources.py  batches served to the compiled loop: gathered from tensors on the device, or from a dataset's iterator
torch_generators.py  what a PyTorch DataLoader draws from
workers.py  a PyDataset's worker processes
stream.py   the place in the data: which pass, which batch of it, what is left of the epoch
"""

from fitcore.data.making import make_source
from fitcore.data.order import KerasOrder, Order, Reshuffle
from fitcore.data.sources import ArraySource, DatasetSource, Source
from fitcore.data.stream import Stream

__all__ = ["ArraySource", "DatasetSource", "KerasOrder", "Order", "Reshuffle", "Source", "Stream", "make_source"]
