"""The data of a Task as batches of optimizer steps, each a pure function of (seed, epoch, position).

`open_train_data` sorts a Task's `train_data` into two kinds, one file each:

- `sampled`: a dataset with an order. Our own sampler keys each batch by its position; a torch DataLoader fetches it
  with as many workers as wanted. A DataLoader is taken apart and rebuilt so.
- `streamed`: an iterable of ready batches, one a step.

Both draw under `keyed_rng` (`sampler`): opening an iterator and fetching a batch leave the global random number
generators of the CPU as they were. `nested` is what is done to a batch of any shape.

Left out: shards of data for several ranks.
"""

from ampguard.training.data.base import TrainData
from ampguard.training.data.nested import leading, split, to_device
from ampguard.training.data.open import open_train_data, val_batches
from ampguard.training.data.sampler import BatchKey, PositionSampler, derive_seed, keyed_rng

__all__ = [
    "BatchKey",
    "PositionSampler",
    "TrainData",
    "derive_seed",
    "keyed_rng",
    "leading",
    "open_train_data",
    "split",
    "to_device",
    "val_batches",
]
