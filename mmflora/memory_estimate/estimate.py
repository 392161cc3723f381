"""Predicting the memory of a training step without computing it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor

from mmflora.adapters.quantized import QuantizedWeight, stored_tensors
from mmflora.config.build import register_toolkit
from mmflora.count.parameters import parameter_parts

from .batch import BatchShape, make_batch
from .fake_tensors import fake_tensors
from .step import StepRecord, TrainingStep, check_trains


@dataclass(frozen=True)
class Estimate:
    """The memory of a training step, in bytes.

    Attributes:
        weights: Parameters by part (``base``, ``adapters``, ``heads``, …)
            and type.
        buffers: Buffers of the model.
        step: What a step holds beside them.
        images: Images of the batch.
        positives: Assumed positives of a second stage per image.
        assumed: Values that a step reads and that are unknown here, taken
            for zero, with how often.
        assigns: Whether the step depends on the objects of the images.
    """

    weights: dict[tuple[str, str], int]
    buffers: int
    step: StepRecord
    images: int
    positives: int
    assumed: dict[str, int]
    assigns: bool = False

    @property
    def fixed(self) -> int:
        """What is there between steps: weights and buffers."""
        return sum(self.weights.values()) + self.buffers

    @property
    def peak(self) -> int:
        """The most that tensors occupy at once."""
        return self.fixed + self.step.peak


def predict(
    cfg: Config, shapes: Sequence[BatchShape], for_gpu: bool = True
) -> list[Estimate]:
    """Predict the memory of a config's training step for several batches.

    The config's own model runs forward and backward, and its own optimizer
    steps, on tensors without memory.

    Args:
        cfg: The config; it is not changed.
        shapes: What the batches are like.
        for_gpu: Whether for a step on a GPU, which need not be there, or on
            the CPU.

    Raises:
        ValueError: If the config describes no training, or its step needs
            values that only a real one has.
    """
    check_trains(cfg)
    register_toolkit(cfg)  # before anything that it makes would be fake
    with (
        DefaultScope.overwrite_default_scope(cfg.default_scope),
        fake_tensors(for_gpu) as values,
    ):
        step = TrainingStep(cfg, 'cpu', values, for_gpu)
        try:
            return [_estimate(cfg, step, shape) for shape in shapes]
        except RuntimeError as error:
            # Of PyTorch's text, which is long, what went wrong.
            said = str(error).splitlines()[0][:200]
            raise ValueError(
                f"The step of '{cfg.filename}' cannot be predicted: "
                f'{type(step.model).__name__} fails on tensors without values '
                f'({said}). Either images of {shapes[0].height}x'
                f'{shapes[0].width} are too small for it: give others by '
                '--size. Or its shapes follow from what the network computes, '
                'as in Sparse R-CNN: train for some iterations on a GPU; the '
                "log's `memory` is the peak."
            ) from error


def count_real_step(cfg: Config, shape: BatchShape) -> Estimate:
    """Compute the step that :func:`predict` follows on the CPU; count it."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return _estimate(cfg, TrainingStep(cfg), shape)


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
    torch.cuda.empty_cache()
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        step = TrainingStep(cfg, 'cuda')
        # Libraries load, and the optimizer's state comes, with the first.
        for _ in range(3):
            torch.cuda.reset_peak_memory_stats()
            step.record(make_batch(cfg, shape))
        torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def _estimate(cfg: Config, step: TrainingStep, shape: BatchShape) -> Estimate:
    record = step.record(make_batch(cfg, shape))
    weights: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    for part, item in parameter_parts(step.model):
        tensor: Any = item.parameter
        if isinstance(tensor, QuantizedWeight):
            kind = str(tensor.scheme)
        else:
            kind = str(tensor.dtype).removeprefix('torch.')
        label = _LABELS.get((part, item.trains), part)
        weights[label, kind] += stored_tensors(tensor)
    return Estimate(
        {key: step.bytes(iter(tensors)) for key, tensors in weights.items()},
        step.bytes(step.model.buffers()),
        record,
        shape.images,
        step.positives,
        dict(step.values.assumed) if step.values else {},
        step.assigns,
    )


_LABELS = {
    ('base', True): 'base, trained',
    ('new', True): 'new in the backbone',
}
