"""Who holds the bytes of a training step, and when they are most."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from .live_bytes import LiveStorages, _Followed

# PyTorch's allocator on GPUs gives memory in blocks of so many bytes.
CUDA_BLOCK = 512


def block_size(device_type: str) -> int:
    """Return what an allocation is rounded up to, in bytes."""
    return CUDA_BLOCK if device_type == 'cuda' else 1


def rounded(size: int, device_type: str) -> int:
    """Return the bytes that an allocation of ``size`` takes on a device."""
    block = block_size(device_type)
    return -(-size // block) * block


class Ledger(LiveStorages):
    """Count the live storages of one device by who created them.

    Sizes are those of the device's allocator: on a GPU it rounds.

    Args:
        device_type: ``'cuda'`` or ``'cpu'``; tensors of others do not count.

    Attributes:
        owner: Whom the storages belong to that are created from now on.
        by_owner: Bytes that are alive now, by owner.
        at_peak: The same, at the moment of the highest sum so far.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        self.owner = ''
        self.by_owner: dict[str, int] = defaultdict(int)
        self.at_peak: dict[str, int] = {}
        self._owners: dict[int, str] = {}

    def restart_peak(self) -> None:
        """Forget earlier peaks."""
        self.peak = self.held
        self.at_peak = dict(self.by_owner)

    def give(self, tensor: Tensor, owner: str) -> None:
        """Say whose a tensor's storage is, if it counts."""
        reference = self._followed.get(tensor.untyped_storage()._cdata)
        if reference is not None and reference.counts:
            self.by_owner[self._owners[reference.address]] -= reference.size
            self.by_owner[owner] += reference.size
            self._owners[reference.address] = owner

    def _counts(self, value: Tensor) -> bool:
        # A fake tensor's `device` is an operator of its own.
        device = getattr(value, 'fake_device', None) or value.device
        return str(device.type) == self.device_type

    def _size(self, storage: torch.UntypedStorage) -> int:
        return rounded(storage.nbytes(), self.device_type)

    def _change(self, reference: _Followed, by: int) -> None:
        owner = self._owners.setdefault(reference.address, self.owner)
        self.by_owner[owner] += by
        super()._change(reference, by)
        if by > 0 and self.held == self.peak:
            self.at_peak = dict(self.by_owner)

    def _forget(self, reference: _Followed) -> None:
        super()._forget(reference)
        self._owners.pop(reference.address, None)


@contextmanager
def owned_by_modules(model: nn.Module, ledger: Ledger) -> Iterator[None]:
    """Let what is created in a module's forward pass belong to it, by name.

    Also in forward passes that run again within the backward pass.
    """
    names = {id(module): name for name, module in model.named_modules()}
    outer: list[str] = []

    def enter(module: nn.Module, _inputs: Any) -> None:
        outer.append(ledger.owner)
        ledger.owner = names.get(id(module)) or ledger.owner

    def leave(_module: nn.Module, _inputs: Any, _outputs: Any) -> None:
        ledger.owner = outer.pop()

    handles = [
        hooks.register_module_forward_pre_hook(enter),
        # Recomputation leaves modules by an exception.
        hooks.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
