"""An adapter in memory: its tensors and what they are."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmflora.checkpoint.record import RECORD_NAME, BaseRecord

from .schema import described_base

ADAPTER_PART = 'adapter'


@dataclass
class AdapterFile:
    """What an adapter's file holds.

    Attributes:
        config: Its description, see :mod:`mmflora.adapter_files.schema`.
        tensors: By the keys of the model that they belong to: adapters, the
            backbone's own trained parameters, neck, heads, buffers.  The
            record of the base stands in ``config`` instead.
        path: Where it was read from, ``''`` where it was not.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    path: str = ''

    def backbone(self, name: str | None = None) -> dict[str, Any]:
        """Return the description of a backbone; of the only one by default.

        Raises:
            ValueError: If there is none of this name, or no single one.
        """
        known = self.config['backbones']
        if name is None and len(known) == 1:
            return next(iter(known.values()))
        if name not in known:
            raise ValueError(
                f"'{self.path}' has no backbone {name!r}; it has "
                f'{", ".join(map(repr, known)) or "none"}.'
            )
        return known[name]

    def move_base(self, checkpoint: str) -> None:
        """Name another place of the base; its content stays the same.

        The hash of the content is checked when the adapter is loaded.

        Args:
            checkpoint: A file, URL or ``timm://<tag>``.

        Raises:
            ValueError: If the base travels with the adapter.
        """
        for name, backbone in self.config['backbones'].items():
            base = backbone['base']
            if base.get('source') is None:
                raise ValueError(
                    f"'{self.path}': the base of '{name}' has no source and "
                    'is saved along; it cannot be elsewhere.'
                )
            base['source'] = dict(base['source'], checkpoint=checkpoint)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors with the records of their bases beside them.

        This is what a checkpoint's ``state_dict`` is.
        """
        state = dict(self.tensors)
        for name, backbone in self.config['backbones'].items():
            state[record_key(name)] = encode_record(backbone)
        return state

    def layers(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of each adapter by its layer's name."""
        found: dict[str, dict[str, Tensor]] = {}
        for key, value in self.tensors.items():
            parts = key.split('.')
            if ADAPTER_PART in parts:
                at = parts.index(ADAPTER_PART)
                layer = '.'.join(parts[:at])
                found.setdefault(layer, {})['.'.join(parts[at + 1 :])] = value
        return found

    def groups(self) -> dict[str, list[str]]:
        """Return the keys of adapters, of the rest of backbones, of heads."""
        layers = self.layers()
        names = tuple(
            f'{name}.' if name else '' for name in self.config['backbones']
        )
        grouped: dict[str, list[str]] = dict(
            adapters=[], backbone=[], heads=[]
        )
        for key in self.tensors:
            layer = key.split(f'.{ADAPTER_PART}.')[0]
            if layer != key and layer in layers:
                grouped['adapters'].append(key)
            else:
                part = 'backbone' if key.startswith(names) else 'heads'
                grouped[part].append(key)
        return grouped


def record_key(backbone: str) -> str:
    """Return the key of a backbone's record in a state dict."""
    prefix = f'{backbone}.' if backbone else ''
    return f'{prefix}{RECORD_NAME}.info'


def encode_record(backbone: dict[str, Any]) -> Tensor:
    """Return a backbone's description as its record travels.

    Returns:
        Bytes, see :class:`BaseRecord`.
    """
    base = backbone['base']
    record = BaseRecord((), (), backbone['method'])
    record.set_base(base.get('source'), base.get('sha256'), base.get('origin'))
    return record.info


def decode_record(info: Tensor) -> dict[str, Any]:
    """Return what a record says as a backbone's description.

    Raises:
        ValueError: If it is damaged.
    """
    record = json.loads(json.dumps(BaseRecord.decode(info)))
    return dict(
        method=record['method'],
        base=described_base(
            record['source'], record['sha256'], record['origin']
        ),
        config=None,
    )


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return how many bytes the values of tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def contiguous(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU that shares memory with no other."""
    return (
        tensor.detach()
        .to('cpu', copy=True)
        .contiguous(memory_format=torch.contiguous_format)
    )
