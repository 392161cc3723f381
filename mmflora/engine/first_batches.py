"""The batches with which a run begins, without disturbing the run."""

import copy
import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from mmflora.adapters import adapted_modules

from .seeded_batches import SeededBatches, seed_generators


def first_batches(runner: Any, count: int) -> list[Any]:
    """Load the first batches of a run, as its training will see them.

    They are loaded in this process, by samplers of their own: workers,
    iterators and the order of the data stay as they are.

    Args:
        runner: The runner, before its training.
        count: How many batches.

    Raises:
        ValueError: If the data has fewer, or no indices.
    """
    loader = runner.train_dataloader
    stock: Any = loader.batch_sampler
    if stock is None or isinstance(loader.dataset, IterableDataset):
        raise ValueError(
            'Calibration: the training data has no indices, or its loader no '
            'batch_size, so that its first batches cannot be loaded twice. '
            'Take a data set with indices.'
        )
    settings = runner._train_dataloader
    if isinstance(settings, DataLoader):
        same = {id(loader.dataset): loader.dataset}  # the data is not copied
        stock = copy.deepcopy(getattr(stock, 'batches', stock), same)
    else:
        again = dict(
            settings,
            dataset=loader.dataset,
            num_workers=0,
            persistent_workers=False,
        )
        again.pop('prefetch_factor', None)
        randomness = getattr(runner, '_randomness_cfg', {})
        stock = runner.build_dataloader(
            again, runner.seed, randomness.get('diff_rank_seed', False)
        ).batch_sampler
    batches = SeededBatches(stock, get_rank())
    batches.seed = int(runner.seed or 0)
    found = [
        loader.collate_fn([loader.dataset[index] for index in indices])
        for indices in itertools.islice(batches, count)
    ]
    if len(found) < count:
        raise ValueError(
            f'Calibration: {count} batches are asked for, but the training '
            f'data has {len(found)} for each process. Lower `batches` of '
            '`calibration`.'
        )
    return found


def seed_batch(seed: int, number: int) -> None:
    """Seed the generators for a batch's pass through the model."""
    key = [seed, number, get_rank()]
    seed_generators(np.random.SeedSequence(key))


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Give buffers and random generators their state back at the end.

    The buffers of adapters, which hold their starts, are left alone.
    """
    starts = {
        buffer
        for module in adapted_modules(model).values()
        for buffer in module.adapter.buffers()
    }
    buffers = {
        buffer: buffer.detach().clone()
        for buffer in model.buffers()
        if buffer not in starts
    }
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)
