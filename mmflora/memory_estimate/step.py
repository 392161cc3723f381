"""One training step of a config, with everything that it holds noted."""

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from mmflora.adapters import assume_calibrated
from mmflora.config.build import build_model

from .assumptions import draw_assigned, draw_head_outputs, fill_samplers
from .fake_tensors import LARGEST, KnownValues
from .live_bytes import LiveStorages, collected_by_hand, owned_by_modules

LOSSES = 'losses, targets, proposals'
INPUTS = 'images and labels'
BACKWARD = 'backward pass'
GRADIENTS = 'gradients'
STATE = 'optimizer state'
UPDATE = 'optimizer step'
# PyTorch's allocator on GPUs gives memory in blocks of so many bytes.
CUDA_BLOCK = 512
# Of how many elements values are followed; while the optimizer steps, those
# of its counters of steps alone.
_FOLLOWED = {INPUTS: LARGEST, BACKWARD: 0, UPDATE: 1}
# Keys of optimizer wrappers that are about the run, not about what is kept.
_RUN_KEYS = ('loss_scale', 'dtype', 'use_fsdp', 'accumulative_counts')


@dataclass(frozen=True)
class StepRecord:
    """What a step holds, in bytes, beyond parameters and buffers.

    Attributes:
        activations: Alive between forward and backward pass, by the name of
            the module that made it.
        gradients: Gradients of parameters.
        state: The optimizer's state.
        peaks: The most alive at once in each phase: ``forward``,
            ``backward``, ``update``; all of a later step, so the state of
            the optimizer is there from the start.
        at_peak: Who held what at the highest of them.
    """

    activations: dict[str, int]
    gradients: int
    state: int
    peaks: dict[str, int]
    at_peak: dict[str, int]

    @property
    def peak(self) -> int:
        """The most bytes alive at once."""
        return max(self.peaks.values())

    @property
    def peak_phase(self) -> str:
        """The phase of the peak."""
        return max(self.peaks, key=lambda phase: self.peaks[phase])


def check_trains(cfg: Config) -> None:
    """Check that a config describes a training.

    Raises:
        ValueError: If it does not; says what is missing.
    """
    wanted = ('model', 'train_dataloader', 'optim_wrapper')
    missing = [key for key in wanted if not cfg.get(key)]
    if missing:
        raise ValueError(
            f"'{cfg.filename}' is no config of a training: it has no "
            f'{", ".join(missing)}. Give one that tools/train.py takes, not '
            'a file of configs/_base_.'
        )


class TrainingStep:
    """The model of a config and its optimizer; no file of weights is read.

    Args:
        cfg: The config; it is not changed.
        device: Where to compute.
        values: What follows values, among fake tensors.
        for_gpu: Whether to count as a GPU's allocator does.

    Attributes:
        positives: The most positives that a second stage may take per image,
            which is what it takes.
        assigns: Whether the model assigns objects to what it predicts.
    """

    def __init__(
        self,
        cfg: Config,
        device: str = 'cpu',
        values: KnownValues | None = None,
        for_gpu: bool = False,
    ) -> None:
        check_trains(cfg)
        sync_bn = device == 'cuda'
        self.model: Any = build_model(
            cfg, weights=False, sync_bn=sync_bn, device=device
        ).train()
        assume_calibrated(self.model)
        if device != 'cpu':  # it remembers where to send batches
            self.model.data_preprocessor.to(device)
        self.positives = fill_samplers(self.model)
        self.assigns = draw_assigned(self.model, values)
        self.values = values
        if values is None:  # some are blank until `init_weights()`
            for parameter in self.model.parameters(recurse=False):
                nn.init.normal_(parameter)
        else:
            for parameter in self.model.parameters():
                values.forget(parameter)
            draw_head_outputs(self.model, values)
        settings = dict(cfg.optim_wrapper.to_dict(), type='OptimWrapper')
        for key in _RUN_KEYS:
            settings.pop(key, None)
        self.optim_wrapper = build_optim_wrapper(self.model, settings)
        self.autocast = _whole_autocast(cfg, device)
        self.for_gpu = for_gpu
        self.block = CUDA_BLOCK if for_gpu else 1
        for group in self.optim_wrapper.param_groups if for_gpu else ():
            # PyTorch's default on a GPU: all parameters at once.
            if 'foreach' in group and not group.get('fused'):
                group['foreach'] = group['foreach'] is not False

    def record(self, data: dict[str, Any]) -> StepRecord:
        """Run a step on a batch and write down what it holds."""
        live = LiveStorages(self.block)
        with ExitStack() as stack:
            stack.enter_context(collected_by_hand())
            stack.enter_context(owned_by_modules(self.model, live))
            self._name_gradients(stack, live)
            stack.enter_context(live)
            loss, kept = self._forward(data, live)
            gc.collect()
            activations = {k: n for k, n in live.by_owner.items() if n}
            at_peaks = {'forward': live.take_peak()}
            self._begin(BACKWARD, live)
            loss.pop().backward()
            at_peaks['backward'] = live.take_peak()
            del kept
            self._begin(UPDATE, live)
            if not self.optim_wrapper.optimizer.state:
                self._update()
            # What the first update makes is there in each phase of a later
            # step; it is added below.
            for tensor in self._state():
                live.give(tensor, None)
            live.take_peak()
            self._update()
            at_peaks['update'] = live.take_peak()
            self._begin(INPUTS, live)
        gradients = self.bytes(
            parameter.grad
            for parameter in self.model.parameters()
            if parameter.grad is not None
        )
        # On a GPU counters of steps, without dimensions, stay on the CPU.
        state = self.bytes(
            t for t in self._state() if t.dim() or not self.for_gpu
        )
        self.optim_wrapper.zero_grad()
        peaks = {k: sum(held.values()) + state for k, held in at_peaks.items()}
        highest = at_peaks[max(peaks, key=lambda phase: peaks[phase])]
        if state:
            highest = {**highest, STATE: state}
        return StepRecord(activations, gradients, state, peaks, highest)

    def bytes(self, tensors: Iterator[Tensor]) -> int:
        """Return what tensors take, memory that they share counted once."""
        storages = {
            tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
            for tensor in tensors
        }
        return sum(-(-n // self.block) * self.block for n in storages.values())

    def _begin(self, phase: str, live: LiveStorages) -> None:
        live.owner = phase
        if self.values is not None:
            self.values.largest = _FOLLOWED[phase]

    def _forward(
        self, data: dict[str, Any], live: LiveStorages
    ) -> tuple[list[Tensor], Any]:
        """Run the forward pass.

        Returns:
            The loss, in a list, so that nobody else need hold it; and what
            MMEngine keeps for the rest of the step.
        """
        live.owner = INPUTS
        if self.for_gpu:  # the batch comes from the CPU's memory
            data = {
                key: [item.to('cpu', copy=True) for item in items]
                for key, items in data.items()
            }
        with self.autocast():
            data = self.model.data_preprocessor(data, True)
            live.owner = LOSSES
            losses = self.model(**data, mode='loss')
        return [self.model.parse_losses(losses)[0]], data

    def _update(self) -> None:
        """Clip as the optimizer wrapper does, without a log, and step."""
        wrapper = self.optim_wrapper
        if wrapper.clip_grad_kwargs:
            parameters = [
                parameter
                for group in wrapper.param_groups
                for parameter in group['params']
                if parameter.grad is not None
            ]
            wrapper.clip_func(parameters, **wrapper.clip_grad_kwargs)
        wrapper.optimizer.step()

    def _state(self) -> list[Tensor]:
        return [
            value
            for entries in self.optim_wrapper.optimizer.state.values()
            for value in entries.values()
            if isinstance(value, Tensor)
        ]

    def _name_gradients(self, stack: ExitStack, live: LiveStorages) -> None:
        """Let gradients that are complete have a name of their own."""

        def name(parameter: Tensor) -> None:
            if parameter.grad is not None:
                live.give(parameter.grad, GRADIENTS)

        for parameter in self.model.parameters():
            if parameter.requires_grad:
                hook = parameter.register_post_accumulate_grad_hook(name)
                stack.callback(hook.remove)


def _whole_autocast(
    cfg: Config, device: str
) -> Callable[[], AbstractContextManager[Any]]:
    """Return what opens the autocast that a config puts around its step."""
    settings = cfg.optim_wrapper
    if settings.get('type') != 'AmpOptimWrapper':
        return nullcontext
    dtype = getattr(torch, settings.get('dtype') or 'float16')
    return partial(torch.autocast, device, dtype=dtype)
