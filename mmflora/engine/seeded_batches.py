"""Batches of a data loader whose randomness follows from their place.

Each data worker has its own random generators, which continue from sample to
sample.  So the random numbers of a sample depend on the number of workers, on
what each has loaded, and on when it was started.  Here a batch has a key
instead.  The process that loads it, a worker or the main one, seeds the
generators with that key before each sample.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from torch.utils.data import DataLoader, IterableDataset


def seed_generators(sequence: np.random.SeedSequence) -> None:
    """Seed Python, NumPy and PyTorch."""
    first, second, third = sequence.generate_state(3)
    random.seed(int(first))
    np.random.seed(int(second))
    if get_device() == 'cpu':
        # torch.manual_seed would also note the stack, for a GPU that may
        # come: 0.3 ms for each sample.
        torch.default_generator.manual_seed(int(third))
    else:
        torch.manual_seed(int(third))


class SeededBatch(Sequence):
    """The indices of a batch; iterating over them seeds before each.

    Args:
        indices: What the batch sampler gave.
        seed: The run's seed.
        place: Rank, pass over the data, and number of the batch in it.
    """

    def __init__(
        self, indices: Sequence[Any], seed: int, place: tuple[int, ...]
    ) -> None:
        self.indices = indices
        self.seed = seed
        self.place = place

    def __iter__(self) -> Iterator[Any]:
        for number, index in enumerate(self.indices):
            _seed_place(self.seed, *self.place, number)
            yield index

    def __getitem__(self, item: Any) -> Any:
        return self.indices[item]

    def __len__(self) -> int:
        return len(self.indices)


def _seed_place(seed: int, *place: int) -> None:
    seed_generators(np.random.SeedSequence(seed, spawn_key=place))


class SeededBatches:
    """A batch sampler around that of a data loader.

    It can leave out the batches that an interrupted run has seen, for any
    sampler: it draws their indices and loads nothing.

    Attributes:
        seed: The run's seed.
        next_pass: The number of the next pass over the data.
        skip: How many batches to leave out from its start.
    """

    def __init__(self, batches: Any, rank: int) -> None:
        self.batches = batches
        self.rank = rank
        self.seed = self.next_pass = self.skip = 0

    def __iter__(self) -> Iterator[SeededBatch]:
        # Loaders call this more often than they read what it returns, so
        # nothing happens before the first batch is asked for.
        while True:
            number, skip = self.next_pass, self.skip
            self.next_pass, self.skip = number + 1, 0
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(number)
            batches = iter(self.batches)
            for count in itertools.count():
                place = self.rank, number, count
                # Some samplers draw from the global generators.
                _seed_place(self.seed, *place)
                indices = next(batches, None)
                if indices is None:
                    break
                if count >= skip:
                    yield SeededBatch(indices, self.seed, place)
            if skip <= count or not count:
                return
            self.skip = skip - count

    @property
    def sampler(self) -> Any:
        """What orders the samples."""
        return getattr(self.batches, 'sampler', self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__['batches'], name)


def seeded_batches(loader: DataLoader, rank: int) -> SeededBatches | None:
    """Return the seeded batches of a loader, and let it use them.

    Args:
        loader: Its batch sampler is replaced, the first time.
        rank: The rank of this process.

    Returns:
        ``None`` where the loader has no batches of indices: its data set is
        an iterable one, or it makes no batches.
    """
    batches: Any = loader.batch_sampler
    if batches is None or isinstance(loader.dataset, IterableDataset):
        return None
    if isinstance(batches, SeededBatches):
        return batches
    # PyTorch refuses to set it, for the sake of workers that have started.
    vars(loader)['batch_sampler'] = seeded = SeededBatches(batches, rank)
    return seeded
