"""Weights read tensor by tensor, for models that fit in memory once only.

A checkpoint is opened as a table of :class:`StoredTensor`: where each tensor
lies in which file.  Reading one goes through a buffer of a few megabytes, or,
where the types agree, from the file straight into the model's parameter; no
file is mapped, so that no page of it counts as the process's memory.
"""

import glob
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .pickles import read_safely
from .tensor_files import read_head

# The keys under which frameworks keep a model's weights, in this order.
_WRAPPERS = (
    *('state_dict', 'model', 'model_state_dict', 'model_state', 'params'),
    *('state_dict_ema', 'model_ema', 'params_ema', 'ema', 'module', 'net'),
)
# What self-distillation (DINO, iBOT, DINOv2) trains, the better one first;
# the backbone stands beside a projection head.
_DISTILLED = ('teacher', 'student')
# Bytes that are read at once where a tensor changes its type.
CHUNK = 4 << 20

_SAFETENSORS_DTYPES = {
    'F64': torch.float64,
    'F32': torch.float32,
    'F16': torch.float16,
    'BF16': torch.bfloat16,
    'I64': torch.int64,
    'I32': torch.int32,
    'I16': torch.int16,
    'I8': torch.int8,
    'U8': torch.uint8,
    'BOOL': torch.bool,
}
FOLDER_CHECKPOINT = 'weights.pth'
"""The ordinary checkpoint in a folder that DeepSpeed writes."""
# What a folder of weights holds, the first found being taken.
_FOLDER_NAMES = (
    'model.safetensors.index.json',
    'pytorch_model.bin.index.json',
    'model.safetensors',
    'pytorch_model.bin',
    FOLDER_CHECKPOINT,
)


@dataclass(frozen=True)
class StoredTensor:
    """A contiguous tensor in a file.

    Attributes:
        path: The file.
        offset: Where its first byte is.
        dtype: The type it has there.
        shape: Its shape.
    """

    path: str
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def read(self) -> Tensor:
        """Return the tensor, in its own type."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        self.read_into(tensor)
        return tensor

    def read_into(self, target: Tensor) -> None:
        """Write the tensor into another of its shape, of any float type.

        Args:
            target: A tensor of the same shape; it may be a view.

        Raises:
            ValueError: If the shapes differ, or the file has ended.
        """
        if tuple(target.shape) != self.shape:
            raise ValueError(
                f"'{self.path}': a tensor of shape {self.shape} does not go "
                f'into one of {tuple(target.shape)}.'
            )
        if not target.numel():
            return
        target = target.detach()
        direct = (
            target.dtype == self.dtype
            and target.device.type == 'cpu'
            and target.is_contiguous()
        )
        with open(self.path, 'rb', buffering=0) as file:
            file.seek(self.offset)
            if direct:
                self._fill(file, target.reshape(-1))
            else:
                self._convert(file, target)

    def _convert(self, file: Any, target: Tensor) -> None:
        rows = target if target.dim() else target[None]
        width = max(1, rows[0].numel())
        step = max(1, CHUNK // (width * self.dtype.itemsize))
        buffer = torch.empty(min(step, len(rows)) * width, dtype=self.dtype)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            flat = buffer[: part.numel()]
            self._fill(file, flat)
            part.copy_(flat.view(part.shape))

    def _fill(self, file: Any, flat: Tensor) -> None:
        view = flat.view(torch.uint8).numpy().data
        while view:
            count = file.readinto(view)
            if not count:
                raise ValueError(
                    f"'{self.path}' is truncated: it ends {len(view)} bytes "
                    'before its tensors do. Copy or download it again.'
                )
            view = view[count:]


def weight_files(source: str) -> dict[str, list[str] | None]:
    """Return the files of local weights, each with the keys it should hold.

    Args:
        source: A file of weights, an index of shards (``*.index.json``, as
            the transformers library writes it), or a folder with either.

    Returns:
        Path to keys; ``None`` for all that the file has.

    Raises:
        FileNotFoundError: If a folder has no weights, or a shard that the
            index names is missing.
        ValueError: If an index is none.
    """
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        path = _in_folder(source, path)
    if not path.endswith('.index.json'):
        return {path: None}
    try:
        with open(path, encoding='utf-8') as file:
            weight_map = dict(json.load(file)['weight_map'])
        for name in weight_map.values():
            if name != os.path.basename(name) or not name.strip('\0.'):
                raise ValueError(f'{name!r} is no name of a file beside it')
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"'{path}' is no index of shards ({type(error).__name__}: "
            f'{error}): it maps keys to files under "weight_map".'
        ) from error
    shards: dict[str, list[str] | None] = {}
    for key, name in sorted(weight_map.items()):
        shard = os.path.join(os.path.dirname(path), name)
        keys = shards.setdefault(shard, [])
        if keys is not None:
            keys.append(key)
    missing = [shard for shard in shards if not os.path.isfile(shard)]
    if missing:
        raise FileNotFoundError(
            f"'{path}' names {len(shards)} shards, of which {len(missing)} "
            f'are missing: {", ".join(missing[:4])}. Put them beside it.'
        )
    return shards


def _in_folder(source: str, folder: str) -> str:
    for name in _FOLDER_NAMES:
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    found = sorted(glob.glob(os.path.join(glob.escape(folder), '*')))
    single = [p for p in found if p.endswith(('.safetensors', '.pth', '.pt'))]
    if len(single) == 1:
        return single[0]
    names = ', '.join(os.path.basename(path) for path in found[:8])
    raise FileNotFoundError(
        f"Weights not found: '{source}' is a folder without any: none of "
        f'{", ".join(_FOLDER_NAMES)} is in it, nor one single .safetensors '
        f'or .pth file. It holds: {names or "nothing"}. Give the file itself.'
    )


def open_weights(source: str) -> dict[str, StoredTensor] | None:
    """Open local weights as a table of stored tensors.

    Returns:
        Key to stored tensor; ``None`` for a file whose tensors cannot be read
        one by one, such as one that PyTorch wrote before its version 1.6.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, or a shard lacks what the index
            promises.
    """
    table: dict[str, StoredTensor] = {}
    for path, keys in weight_files(source).items():
        if path.endswith('.safetensors'):
            stored: dict[str, StoredTensor] | None = _safetensors(path)
        else:
            stored = _torch_file(path)
        if stored is None:
            return None
        lacking = [key for key in keys or () if key not in stored]
        if lacking:
            raise ValueError(
                f"'{path}' lacks {len(lacking)} of the tensors that the "
                f'index of its shards promises: {", ".join(lacking[:4])}, … '
                'Index and shards are of different downloads.'
            )
        table.update(stored)
    return table


def _safetensors(path: str) -> dict[str, StoredTensor]:
    """Read the head of a .safetensors file: a length, then JSON."""
    read_head(path)  # which checks it
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        head = json.loads(file.read(length))
    table = {}
    for key, entry in head.items():
        if key == '__metadata__':
            continue
        dtype = _SAFETENSORS_DTYPES.get(entry['dtype'])
        if dtype is None:
            raise ValueError(
                f"'{path}': {key} is of type {entry['dtype']}; allowed are "
                f'{", ".join(_SAFETENSORS_DTYPES)}. Take weights that are '
                'not quantized.'
            )
        start = 8 + length + entry['data_offsets'][0]
        table[key] = StoredTensor(path, start, dtype, tuple(entry['shape']))
    return table


def _torch_file(path: str) -> dict[str, StoredTensor] | None:
    """Find the tensors of a file that ``torch.save`` wrote, unread."""
    try:
        with FakeTensorMode():
            checkpoint = read_safely(path)
    except (ValueError, NotImplementedError):
        return None  # for the reader of whole files, or its message
    table = {}
    for key, value in unwrap(checkpoint).items():
        if not isinstance(value, Tensor):
            continue
        start = getattr(value.untyped_storage(), '_checkpoint_offset', None)
        if start is None or not value.is_contiguous():
            return None
        start += value.storage_offset() * value.dtype.itemsize
        table[str(key)] = StoredTensor(
            path, start, value.dtype, tuple(value.shape)
        )
    return table


def unwrap(checkpoint: Any) -> Mapping[Any, Any]:
    """Return what stands under the keys that frameworks put around weights."""
    if not isinstance(checkpoint, Mapping):
        return {}
    wrapped: Any = checkpoint
    while wrapped is not None:
        checkpoint = wrapped
        inner = map(checkpoint.get, _WRAPPERS)
        wrapped = next((w for w in inner if isinstance(w, Mapping)), None)
    for network in _DISTILLED:
        if isinstance(checkpoint.get(network), Mapping):
            return {
                re.sub(r'^(module\.)?(backbone\.)?', '', str(key)): value
                for key, value in checkpoint[network].items()
            }
    return checkpoint
