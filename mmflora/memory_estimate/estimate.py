"""Predicting the memory of a training step without computing it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmflora.adapters.quantized import QuantizedWeight
from mmflora.checkpoint.record import base_records
from mmflora.checkpoint.roles import Role, parameter_roles
from mmflora.config.build import register_toolkit

from . import graph_walk
from .assumptions import draw_head_outputs, fill_samplers
from .batch import BatchShape, make_batch
from .fake_device import fake_device
from .known_values import LARGEST, KnownValues
from .ledger import Ledger
from .model import (
    build_blank_model,
    build_optimizer,
    check_trains,
    whole_autocast,
)
from .step import (
    GRADIENTS,
    StepRecord,
    TrainingStep,
    parameter_bytes,
    real_backward,
)

# How many elements a tensor may have for its values to be followed while the
# optimizer steps: its counters of steps alone.
_COUNTERS = 1


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
    """

    weights: dict[tuple[str, str], int]
    buffers: int
    step: StepRecord
    images: int
    positives: int
    assumed: dict[str, int]

    @property
    def fixed(self) -> int:
        """What is there between steps: weights and buffers."""
        return sum(self.weights.values()) + self.buffers

    @property
    def peak(self) -> int:
        """The most that tensors occupy at once."""
        return self.fixed + self.step.peak


def predict(
    cfg: Config, shape: BatchShape, device_type: str = 'cuda'
) -> Estimate:
    """Predict the memory of a config's training step.

    The config's own model runs forward and backward, and its own optimizer
    steps, on tensors without memory.

    Args:
        cfg: The config; it is not changed.
        shape: What a batch is like.
        device_type: The device that computes; it need not be there.

    Raises:
        ValueError: If the config describes no training.
    """
    return predict_batches(cfg, [shape], device_type)[0]


def predict_batches(
    cfg: Config, shapes: Sequence[BatchShape], device_type: str = 'cuda'
) -> list[Estimate]:
    """Predict the memory for several batches; see :func:`predict`."""
    check_trains(cfg)
    register_toolkit(cfg)
    with (
        DefaultScope.overwrite_default_scope(cfg.default_scope),
        fake_device(device_type) as values,
    ):
        with torch.device(device_type):
            model = build_blank_model(cfg, device_type)
        for parameter in model.parameters():
            values.forget(parameter)
        walk = partial(_walk, values=values)
        step, positives = prepare_step(cfg, model, device_type, walk)
        draw_head_outputs(model, values)
        _use_foreach(step, device_type)
        found = []
        for shape in shapes:
            with values.up_to(LARGEST):
                record = step.record(make_batch(cfg, shape))
            found.append(_estimate(step, shape, record, positives, values))
    return found


def count_real_step(
    cfg: Config, shape: BatchShape, device_type: str
) -> Estimate:
    """Compute the very step that :func:`predict` follows, and count it."""
    check_trains(cfg)
    register_toolkit(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        with torch.device(device_type):
            model = build_blank_model(cfg, device_type)
        step, positives = prepare_step(cfg, model, device_type)
        record = step.record(make_batch(cfg, shape))
    return _estimate(step, shape, record, positives)


def _estimate(
    step: TrainingStep,
    shape: BatchShape,
    record: StepRecord,
    positives: int,
    values: KnownValues | None = None,
) -> Estimate:
    return Estimate(
        weight_bytes(step.model, step.device_type),
        parameter_bytes(step.model.buffers(), step.device_type),
        record,
        shape.images,
        positives,
        dict(values.assumed) if values else {},
    )


def prepare_step(
    cfg: Config,
    model: nn.Module,
    device_type: str,
    backward: Callable[[list[Tensor], Ledger], None] = real_backward,
) -> tuple[TrainingStep, int]:
    """Make a model ready for steps, under what is assumed of its data.

    Returns:
        The step, and the assumed positives per image.
    """
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    if preprocessor is not None:
        preprocessor.to(device_type)  # it remembers where to send batches
    positives = fill_samplers(model)
    optim_wrapper = build_optimizer(model, cfg)
    autocast = whole_autocast(cfg, device_type)
    step = TrainingStep(model, optim_wrapper, device_type, backward, autocast)
    return step, positives


def _walk(loss: list[Tensor], ledger: Ledger, values: KnownValues) -> None:
    """Run the backward pass without PyTorch's engine."""

    def name(gradient: Tensor) -> None:
        ledger.give(gradient, GRADIENTS)

    with values.up_to(0):
        graph_walk.backward(loss, on_gradient=name)
    values.largest = _COUNTERS


def _use_foreach(step: TrainingStep, device_type: str) -> None:
    """Let the optimizer go over all parameters at once, as on a GPU.

    It is PyTorch's default there, but for tensors of another class, such as
    fake ones.
    """
    if device_type != 'cuda':
        return
    for group in step.optim_wrapper.param_groups:
        if 'foreach' in group and not group.get('fused'):
            group['foreach'] = group['foreach'] is not False


def weight_bytes(
    model: nn.Module, device_type: str
) -> dict[tuple[str, str], int]:
    """Return the bytes of a model's parameters, by part and type."""
    parts: dict[tuple[str, str], list[Tensor]] = {}
    for part, parameter in _parts(model):
        key = part, _type_name(parameter)
        parts.setdefault(key, []).append(parameter)
    return {
        key: parameter_bytes(iter(tensors), device_type)
        for key, tensors in parts.items()
    }


def _type_name(parameter: Tensor) -> str:
    if isinstance(parameter, QuantizedWeight):
        return str(parameter.scheme)
    return str(parameter.dtype).removeprefix('torch.')


_PARTS = {
    Role.BASE: 'base',
    Role.CORE: 'adapters',
    Role.ADAPTER: 'adapters',
    Role.TUNED: 'base, trained',
    Role.NEW: 'new in the backbone',
}


def _parts(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return each parameter with the part of the model that it is."""
    if not base_records(model):
        return [
            (_plain_part(name, parameter), parameter)
            for name, parameter in model.named_parameters()
        ]
    return [
        (_PARTS.get(item.role) or _outside(item.name), item.parameter)
        for item in parameter_roles(model)
    ]


def _plain_part(name: str, parameter: Tensor) -> str:
    if not name.startswith('backbone.'):
        return _outside(name)
    return 'base, trained' if parameter.requires_grad else 'base'


def _outside(name: str) -> str:
    return 'neck' if name.startswith('neck.') else 'heads'
