"""One training step, with everything that it holds written down."""

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmflora.adapters.quantized import stored_tensors

from .ledger import Ledger, owned_by_modules, rounded

LOSSES = 'losses, targets, proposals'
INPUTS = 'images and labels'
BACKWARD = 'backward pass'
GRADIENTS = 'gradients'
STATE = 'optimizer state'
UPDATE = 'optimizer step'


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
        remarks: What to know of how it was found.
    """

    activations: dict[str, int]
    gradients: int
    state: int
    peaks: dict[str, int]
    at_peak: dict[str, int]
    remarks: tuple[str, ...] = field(default=())

    @property
    def peak(self) -> int:
        """The most bytes alive at once."""
        return max(self.peaks.values())

    @property
    def peak_phase(self) -> str:
        """The phase of the peak."""
        return max(self.peaks, key=lambda phase: self.peaks[phase])


Backward = Callable[[list[Tensor], Ledger], None]


def real_backward(loss: list[Tensor], ledger: Ledger) -> None:
    """Run PyTorch's own backward pass."""
    loss.pop().backward()


class TrainingStep:
    """A model's step, in parts.

    Args:
        model: The model, in training mode.
        optim_wrapper: Its optimizer wrapper.
        device_type: Where it computes.
        backward: Runs the backward pass from a loss in a list that it
            empties.
        autocast: Opened around the whole forward pass, once per step.
    """

    def __init__(
        self,
        model: nn.Module,
        optim_wrapper: OptimWrapper,
        device_type: str,
        backward: Backward = real_backward,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model: Any = model
        self.optim_wrapper = optim_wrapper
        self.device_type = device_type
        self.backward = backward
        self.autocast = autocast

    def record(self, data: dict[str, Any]) -> StepRecord:
        """Run a step on a batch and write down what it holds."""
        ledger = Ledger(self.device_type)
        with (
            _collected_by_hand(),
            owned_by_modules(self.model, ledger),
            ledger,
        ):
            loss, kept = self.forward(data, ledger)
            gc.collect()
            activations = _nonzero(ledger.by_owner)
            peaks = {'forward': ledger.peak}
            at_peak = {'forward': ledger.at_peak}
            ledger.restart_peak()
            ledger.owner = BACKWARD
            self.backward(loss, ledger)
            self._name_gradients(ledger)
            peaks['backward'] = ledger.peak
            at_peak['backward'] = ledger.at_peak
            del kept
            self._update(ledger)
            self._name_state(ledger)
            # What the first update has made is there in every later one.
            ledger.restart_peak()
            self._update(ledger)
            peaks['update'], at_peak['update'] = ledger.peak, ledger.at_peak
        gradients = self._bytes(self._gradients())
        state = self._bytes(self._state())
        self.optim_wrapper.zero_grad()
        self.optim_wrapper.optimizer.state.clear()
        for phase in ('forward', 'backward'):
            peaks[phase] += state
            at_peak[phase] = {**at_peak[phase], STATE: state}
        highest = max(peaks, key=lambda phase: peaks[phase])
        return StepRecord(
            activations,
            gradients,
            state,
            peaks,
            _nonzero(at_peak[highest]),
        )

    def forward(
        self, data: dict[str, Any], ledger: Ledger | None = None
    ) -> tuple[list[Tensor], Any]:
        """Run the forward pass.

        Returns:
            The loss, in a list, so that nobody else need hold it; and what
            MMEngine keeps for the rest of the step.
        """
        with self.autocast():
            if ledger is not None:
                ledger.owner = INPUTS
            data = self.model.data_preprocessor(data, True)
            if ledger is not None:
                ledger.owner = LOSSES
            losses = self.model(**data, mode='loss')
        loss, _ = self.model.parse_losses(losses)
        return [loss], data

    def _update(self, ledger: Ledger) -> None:
        ledger.owner = UPDATE
        self.clip()
        self.optim_wrapper.optimizer.step()

    def clip(self) -> None:
        """Clip gradients as the optimizer wrapper does, without a log."""
        wrapper = self.optim_wrapper
        if wrapper.clip_grad_kwargs:
            parameters = [
                parameter
                for group in wrapper.param_groups
                for parameter in group['params']
                if parameter.grad is not None
            ]
            wrapper.clip_func(parameters, **wrapper.clip_grad_kwargs)

    def _gradients(self) -> list[Tensor]:
        return [
            parameter.grad
            for parameter in self.model.parameters()
            if parameter.grad is not None
        ]

    def _state(self) -> list[Tensor]:
        return [
            value
            for entries in self.optim_wrapper.optimizer.state.values()
            for value in entries.values()
            if isinstance(value, Tensor)
            and value.device.type == self.device_type
        ]

    def _bytes(self, tensors: list[Tensor]) -> int:
        return sum(
            rounded(tensor.untyped_storage().nbytes(), self.device_type)
            for tensor in tensors
        )

    def _name_gradients(self, ledger: Ledger) -> None:
        for gradient in self._gradients():
            ledger.give(gradient, GRADIENTS)

    def _name_state(self, ledger: Ledger) -> None:
        for tensor in self._state():
            ledger.give(tensor, STATE)


def _nonzero(sizes: dict[str, int]) -> dict[str, int]:
    return {owner: size for owner, size in sizes.items() if size}


@contextmanager
def _collected_by_hand() -> Iterator[None]:
    """Keep the garbage collector from freeing at a moment of its choice."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def parameter_bytes(tensors: Iterator[Tensor], device_type: str) -> int:
    """Return what tensors take on a device, shared memory counted once."""
    storages: dict[int, int] = {}
    for tensor in tensors:
        for part in stored_tensors(tensor):
            storage: torch.UntypedStorage = part.untyped_storage()
            storages[storage._cdata] = rounded(storage.nbytes(), device_type)
    return sum(storages.values())
