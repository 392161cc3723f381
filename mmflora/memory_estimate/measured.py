"""What a training step takes on a GPU that is there."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmflora.config.build import register_toolkit

from .batch import BatchShape, make_batch
from .estimate import prepare_step
from .model import build_blank_model, check_trains

# The optimizer's state comes with the first step; libraries load with it too.
_STEPS = 3


def check_gpu() -> None:
    """Check that there is a GPU to measure on.

    Raises:
        ValueError: If there is none.
    """
    if not torch.cuda.is_available():
        raise ValueError(
            '--measure runs a step on a GPU, and PyTorch finds none here. '
            'Leave it out for the forecast alone.'
        )


def measure_peak(cfg: Config, shape: BatchShape) -> int:
    """Return the most bytes that tensors take on the GPU during a step.

    Weights are random, the batch is the one of the forecast.

    Raises:
        ValueError: If there is no GPU, or the config describes no training.
    """
    check_gpu()
    check_trains(cfg)
    register_toolkit(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), _emptied():
        with torch.device('cuda'):
            model = build_blank_model(cfg, 'cuda')
        step, _ = prepare_step(cfg, model, 'cuda')
        for _ in range(_STEPS):
            torch.cuda.reset_peak_memory_stats()
            loss, kept = step.forward(make_batch(cfg, shape))
            loss.pop().backward()
            del kept
            step.clip()
            step.optim_wrapper.optimizer.step()
            step.optim_wrapper.zero_grad()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()


@contextmanager
def _emptied() -> Iterator[None]:
    """Give memory that is free back, before and after."""
    torch.cuda.empty_cache()
    try:
        yield
    finally:
        torch.cuda.empty_cache()
