"""Measuring one training step: bytes, device memory, errors and time."""

import gc
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.backbones import Candidate
from mmflora.memory_estimate.live_bytes import count_step

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}


@dataclass
class Setting:
    """What all contenders of a run have in common.

    Attributes:
        model: timm's name of the model.
        size: Height and width of the images.
        batch: How many images.
        dtype: ``'float32'``, or ``'bfloat16'`` for autocast.
        device: ``'cpu'`` or ``'cuda'``.
        rank: FLoRA's rank.
        channels_last: Use the channels-last memory format.
    """

    model: str
    size: int
    batch: int
    dtype: str
    device: str
    rank: int
    channels_last: bool = False

    def place(self, candidate: Candidate) -> Candidate:
        """Move a model to the run's device and memory format."""
        candidate = candidate.to(self.device)
        if self.channels_last:
            candidate = candidate.to(memory_format=torch.channels_last)
        return candidate


class Step:
    """A forward and a backward pass of one contender, to be repeated.

    Args:
        candidate: The model.
        setting: The run's setting.
        size: Height and width of the images; the setting's if ``None``.
        exact: Compute in float64, without autocast.
    """

    def __init__(
        self,
        candidate: Candidate,
        setting: Setting,
        size: int | None = None,
        exact: bool = False,
    ) -> None:
        dtype = torch.float64 if exact else torch.float32
        self.candidate = setting.place(candidate).to(dtype)
        self.autocast = setting.dtype != 'float32' and not exact
        self.setting = setting
        side = size or setting.size
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(setting.batch, 3, side, side, generator=generator)
        self.images = images.to(setting.device, dtype)
        if setting.channels_last:
            self.images = self.images.contiguous(
                memory_format=torch.channels_last
            )
        self.images.requires_grad_(candidate.images_need_gradient)
        with torch.no_grad():
            output = self.forward()
        # Every type can hold the same values: no error comes in with them.
        gradient = torch.randn(output.shape, generator=generator).bfloat16()
        self.gradient = gradient.to(output)

    def forward(self) -> Tensor:
        """Return the model's output."""
        context: Any = nullcontext()
        if self.autocast:
            context = torch.autocast(
                self.setting.device, DTYPES[self.setting.dtype]
            )
        with context:
            return self.candidate(self.images)

    def backward(self, output: Tensor) -> None:
        """Pass a random gradient back from the output."""
        output.backward(self.gradient)

    def clear(self) -> None:
        """Drop all gradients."""
        self.images.grad = None
        for parameter in self.candidate.parameters():
            parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """Return the gradients of what trains, or else the images'."""
        wanted = self.candidate.trainable() or [self.images]
        missing = sum(tensor.grad is None for tensor in wanted)
        if missing:
            raise RuntimeError(
                f'{missing} of {len(wanted)} trainable tensors got no '
                'gradient: the contender is wired wrongly.'
            )
        return [tensor.grad for tensor in wanted if tensor.grad is not None]

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.setting.device == 'cuda':
            torch.cuda.synchronize()

    def seconds(self) -> float:
        """Run once and return how long it took."""
        self.synchronize()
        start = time.perf_counter()
        self.backward(self.forward())
        self.synchronize()
        duration = time.perf_counter() - start
        self.clear()
        return duration


def measure_bytes(step: Step) -> dict[str, int | None]:
    """Count the bytes of a step, and its peak on a GPU.

    On a GPU the contender must be alone there: the peak is all memory that
    tensors have, the model's weights included.
    """
    step.clear()
    counted = count_step(step.forward, step.backward)
    step.gradients()
    step.clear()
    device_peak = None
    if step.setting.device == 'cuda':
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        step.seconds()
        device_peak = torch.cuda.max_memory_allocated()
    return dict(
        bytes_held=counted.held,
        bytes_peak=counted.peak,
        device_peak=device_peak,
    )


def measure_errors(
    make: Callable[[], Candidate], setting: Setting, size: int
) -> dict[str, float]:
    """Compare a step with the same contender's in float64.

    Args:
        make: Builds the contender, with the same weights each time.
        setting: The run's setting; its dtype is the one compared.
        size: Height and width of the images.

    Returns:
        Relative Frobenius errors of the output and of all gradients at once.
    """
    found = []
    for exact in (False, True):
        step = Step(make(), setting, size, exact)
        output = step.forward()
        step.backward(output)
        found.append((output.detach(), step.gradients()))
    (output, gradients), (output64, gradients64) = found
    return dict(
        output_error=_relative([output], [output64]),
        gradient_error=_relative(gradients, gradients64),
    )


def _relative(values: list[Tensor], exact: list[Tensor]) -> float:
    error = sum(
        (value.double() - right).square().sum()
        for value, right in zip(values, exact, strict=True)
    )
    norm = sum(right.square().sum() for right in exact)
    return float(torch.as_tensor(error / norm).sqrt())


def interleave(
    steps: dict[str, Step],
    repeats: int,
    warmup: int,
    report: Callable[[str], None],
) -> dict[str, list[float]]:
    """Time all contenders in turns, so that a slow minute hits all alike.

    Args:
        steps: The contenders.
        repeats: How many rounds count.
        warmup: How many rounds before them do not.
        report: Called with a line after each round.

    Returns:
        Seconds of each round, per contender.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    gc.collect()
    for turn in range(-warmup, repeats):
        # Each round starts with the next one: nobody always follows another.
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(steps[name].seconds())
        kind = 'warm-up' if turn < 0 else f'round {turn + 1} of {repeats}'
        last = ', '.join(f'{name} {times[name][-1]:.3f}' for name in names)
        report(f'{kind}: {last} s')
    return {name: values[warmup:] for name, values in times.items()}
