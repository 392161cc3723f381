"""What a frozen part knows of its base, and how checkpoints store it.

An adapter checkpoint works only over its own base.  MMEngine's ways of
building a model for a test (``Runner.test``, ``init_detector``, the
inferencers) never run ``init_weights`` and never fail on missing keys.  So
each frozen part of a model has a :class:`BaseRecord`.  Its one buffer is
saved in the state dict and names the base.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmflora.adapters.quantized import QuantizedWeight
from mmflora.files.checksums import add_tensor, check_finite, tensor_digest

from .sharded import is_sharded, whole

RECORD_NAME = 'base_record'
IMPORTED = 'imported'
"""Says in a record's ``method`` that a file holds adapters alone."""


def content_hash(
    tensors: Mapping[str, Tensor], digested: Collection[str] = ()
) -> str:
    """Return the SHA-256 of named tensors: names, types, shapes, values.

    It does not depend on the order of the names, the device or the memory
    format, nor on the layout of the file that the tensors came from.  Where
    they are sharded, all processes must call it together.  Of a quantized
    weight, the values before rounding count, by their own SHA-256; how they
    were rounded does not.

    Args:
        tensors: By name.
        digested: Names of dense tensors to count by their own SHA-256, as if
            they were quantized.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        origin = _origin(tensors[name], name in digested)
        if origin:
            digest.update(f'{name}|{origin}|'.encode())
            continue
        add_tensor(digest, f'{name}|', whole(tensors[name].detach()))
    return digest.hexdigest()


def _origin(tensor: Tensor, digested: bool) -> str:
    if isinstance(tensor, QuantizedWeight):
        return tensor.origin
    return tensor_digest(tensor) if digested else ''


def _as_json(described: Any) -> bytes:
    return json.dumps(described, default=str, ensure_ascii=False).encode()


class BaseRecord(nn.Module):
    """The base of one backbone: which parameters, and where they come from.

    The facts that may change during a run are in the buffer ``info``: JSON,
    padded to a size that only depends on the method.  So copies of the model
    (an averaged one, those of other ranks) follow it like any buffer.

    Args:
        base_keys: Names of the frozen parameters in the backbone.
        new_keys: Names of the backbone's own parameters that train.
        tuned_keys: Names of the base's parameters that train; they are loaded
            with the base, saved with the adapters, and no part of the frozen
            base's content.
        steady_keys: Those of them that weight decay leaves alone.
        method: The adapter's configuration, for the checkpoint's reader.
        allow_random: Whether training over a base without a source is
            allowed.
        stock_shapes: Shapes of the backbone's weights and buffers by key,
            without adapters.
        optional: Patterns of those keys that a base may lack.
        unused: Patterns of a base's keys that the backbone may lack.
        other_quantization: Whether adapters may come from a base that was
            stored otherwise.
        own_keys: Whether the base's file has the module's own keys; else the
            module's class reads it.
    """

    SIZE = 8192  # at least
    ROOM = 6144  # for the base: a path takes 4096 bytes at most
    info: Tensor

    def __init__(
        self,
        base_keys: Iterable[str],
        new_keys: Iterable[str],
        method: Mapping[str, Any],
        allow_random: bool = False,
        stock_shapes: Mapping[str, tuple[int, ...]] | None = None,
        optional: Iterable[str] = (),
        unused: Iterable[str] = (),
        tuned_keys: Iterable[str] = (),
        steady_keys: Iterable[str] = (),
        other_quantization: bool = False,
        own_keys: bool = False,
    ) -> None:
        super().__init__()
        self.base_keys = tuple(base_keys)
        self.new_keys = tuple(new_keys)
        self.tuned_keys = tuple(tuned_keys)
        self.steady_keys = tuple(steady_keys)
        self.method = dict(method)
        self.allow_random = allow_random
        self.other_quantization = other_quantization
        self.own_keys = own_keys
        self.stock_shapes = dict(stock_shapes or {})
        self.optional = tuple(optional)
        self.unused = tuple(unused)
        # State of one load: its prefix, the keys that it may lack, and
        # whether it is the base itself that is being loaded.
        self.loaded_prefix = ''
        self.may_be_missing: tuple[str, ...] = ()
        self.loading = False
        # Whether a plain checkpoint is taking the base's place.
        self.replaced = False
        size, needed = self.SIZE, self.ROOM + len(_as_json(self.method))
        while size < needed:
            size *= 2
        blank = torch.zeros(size, dtype=torch.uint8, device='cpu')
        self.register_buffer('info', blank)
        self.set_base(None, None, None)

    def set_base(
        self,
        source: Mapping[str, Any] | None,
        sha256: str | None,
        origin: str | None,
    ) -> None:
        """Note where the base comes from and what it contains.

        Args:
            source: The ``init_cfg`` of the base, or ``None`` where it has no
                source and so must be saved along.
            sha256: :func:`content_hash` of the base, or ``None``.
            origin: ``'init_cfg'``; ``'load_from'`` where a whole checkpoint
                replaced the base after the model was built; or ``None``.

        Raises:
            ValueError: If the description outgrows its buffer.
        """
        text = _as_json(
            {
                'source': dict(source) if source else None,
                'sha256': sha256,
                'origin': origin,
                'method': self.method,
            }
        )
        size = self.info.numel()
        if len(text) > size:
            raise ValueError(
                f'The source of the base, {str(source)[:80]}…, is too long: '
                f'with the method it takes {len(text)} bytes of {size}. Give '
                'the file a shorter path.'
            )
        padded = text.ljust(size, b'\0')
        if not self.info.is_meta:
            self.info.copy_(
                torch.frombuffer(bytearray(padded), dtype=torch.uint8)
            )

    @property
    def source(self) -> dict[str, Any] | None:
        """The ``init_cfg`` of the base, ``None`` where it has no source."""
        return self.decode(self.info)['source']

    @property
    def sha256(self) -> str | None:
        """The content hash of the base, ``None`` where it is not known."""
        return self.decode(self.info)['sha256']

    @property
    def in_place(self) -> bool:
        """Whether the backbone holds a base that is known by its content."""
        return self.sha256 is not None

    @property
    def origin(self) -> str | None:
        """``'init_cfg'``, ``'load_from'`` or ``None``."""
        return self.decode(self.info)['origin']

    @staticmethod
    def decode(info: Tensor) -> dict[str, Any]:
        """Read the record that travels in a checkpoint.

        Raises:
            ValueError: If it is damaged.
        """
        keys = ('source', 'sha256', 'origin', 'method')
        if info.is_meta:
            return dict.fromkeys(keys)
        try:
            text = info.detach().cpu().numpy().tobytes().rstrip(b'\0')
            record = json.loads(text.decode())
            source = record['source']
            if source and not isinstance(source['checkpoint'], str):
                raise TypeError(f'its source is {source}')
            return {key: record[key] for key in keys}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"The checkpoint's record of its base ('{RECORD_NAME}.info') "
                f'is damaged: {error}. Take another copy of the file.'
            ) from error

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Leave the record to the backbone's own check of a checkpoint."""

    def extra_repr(self) -> str:
        """Return the base's source, as it stands in a printed model."""
        return f'source={self.source}, sha256={self.sha256}'


def base_records(model: nn.Module) -> dict[str, tuple[nn.Module, BaseRecord]]:
    """Return the frozen parts of a model, with their records, by name."""
    found = {}
    for name, module in model.named_modules():
        record = module._modules.get(RECORD_NAME)
        if isinstance(record, BaseRecord):
            found[name] = (module, record)
    return found


def base_tensors(backbone: nn.Module, record: BaseRecord) -> dict[str, Tensor]:
    """Return the frozen parameters of a backbone by name."""
    parameters = dict(backbone.named_parameters())
    return {key: parameters[key] for key in record.base_keys}


def note_base(
    backbone: nn.Module,
    record: BaseRecord,
    source: Mapping[str, Any],
    origin: str,
) -> None:
    """Note the source and the content of a base that has been loaded.

    Raises:
        ValueError: If it holds NaN or infinity.
    """
    base = base_tensors(backbone, record)
    if origin == 'load_from':  # by MMEngine, which checks nothing
        dense = {
            key: value
            for key, value in base.items()
            if not isinstance(value, QuantizedWeight) and not is_sharded(value)
        }
        check_finite(dense, f"The base weights '{source['checkpoint']}'")
    record.set_base(source, content_hash(base), origin)


def check_base_content(
    record: BaseRecord, state: Mapping[str, Tensor], sha256: str | None
) -> None:
    """Check that a base in a checkpoint is the one that its record names."""
    if sha256 is None:
        return
    content = content_hash({key: state[key] for key in record.base_keys})
    if content != sha256:
        raise ValueError(
            f'The base in the checkpoint (SHA-256 {content}) is not the one '
            f'that its adapters were trained over (SHA-256 {sha256}): the '
            'file was changed or damaged. Take another copy of it.'
        )
