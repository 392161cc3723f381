"""State dicts of a backbone with a frozen base: without it, and checked.

:func:`attach_record` gives a backbone its :class:`BaseRecord` and three hooks
of ``nn.Module``: one leaves the base out of a state dict if asked to, one
checks what is loaded, one removes the base's keys from the missing ones.
"""

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from mmflora.adapters import adapted_modules
from mmflora.adapters.quantized_base import say_quantization
from mmflora.files.sources import BASES

from .base_weights import load_base, load_own_keys
from .keys import (
    compare_keys,
    float_shapes,
    state_shapes,
    without_adapters,
)
from .plain_checkpoint import check_plain_checkpoint
from .quantization_match import check_quantization, same_base
from .record import (
    IMPORTED,
    RECORD_NAME,
    BaseRecord,
    base_tensors,
    check_base_content,
    content_hash,
    note_base,
)
from .sharded import any_sharded

_OMIT_BASE: ContextVar[bool] = ContextVar('omit_base', default=False)
INFO_KEY = f'{RECORD_NAME}.info'


@contextmanager
def adapter_state_dict() -> Iterator[None]:
    """Within this context, state dicts leave out bases that have a source.

    A base without a source (a random one) stays in: nothing else could bring
    it back.
    """
    token = _OMIT_BASE.set(True)
    try:
        yield
    finally:
        _OMIT_BASE.reset(token)


def attach_record(backbone: nn.Module, record: BaseRecord) -> None:
    """Give a backbone its record and the hooks that keep it."""
    backbone.add_module(RECORD_NAME, record)
    backbone.register_state_dict_post_hook(_omit_base)
    backbone.register_load_state_dict_pre_hook(_check_loaded)
    backbone.register_load_state_dict_post_hook(_forget_base_keys)


def load_recorded_base(
    backbone: nn.Module,
    record: BaseRecord,
    source: Mapping[str, Any],
    origin: str,
) -> None:
    """Load a base and note its source and content in the record."""
    outer = (record.loaded_prefix, record.may_be_missing)
    record.loaded_prefix = ''
    record.may_be_missing = tuple(
        key for key in backbone.state_dict() if key not in record.base_keys
    )
    record.loading = True
    try:
        load = load_own_keys if record.own_keys else load_base
        load(
            backbone,
            source,
            record.stock_shapes,
            record.optional,
            record.unused,
        )
    finally:
        record.loading = False
        record.loaded_prefix, record.may_be_missing = outer
    note_base(backbone, record, source, origin)
    keep_base(backbone)
    say_quantization(backbone)


class KeptBase:
    """Takes the place of a backbone's ``init_weights``: its base is in place.

    The runner calls it again when training starts.  It would read the file a
    second time or, in some classes, draw weights at random.  A model around
    the backbone may have drawn those of all its layers just before, as ICNet
    does, which expects them to be loaded now.  Then they are.

    Args:
        backbone: The backbone, with a base in place.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.tuned_sha256 = content_hash(self._tuned())

    def __call__(self) -> None:
        """Load the base once more if another one stands there."""
        record: BaseRecord = getattr(self.backbone, RECORD_NAME)
        base = content_hash(base_tensors(self.backbone, record))
        same = base == record.sha256
        if same and content_hash(self._tuned()) == self.tuned_sha256:
            return
        source, origin = record.source, record.origin
        if source is not None and origin is not None:
            load_recorded_base(self.backbone, record, source, origin)

    def _tuned(self) -> dict[str, Tensor]:
        own = dict(self.backbone.named_parameters())
        record: BaseRecord = getattr(self.backbone, RECORD_NAME)
        return {key: own[key] for key in record.tuned_keys}


def keep_base(backbone: nn.Module) -> None:
    """Let a backbone's ``init_weights`` keep its base, see KeptBase."""
    backbone.init_weights = KeptBase(backbone)  # type: ignore[assignment]
    if hasattr(backbone, '_is_init'):  # a model around it is to call it
        backbone._is_init = False  # type: ignore[assignment]


def _omit_base(
    module: nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    _metadata: Any,
) -> None:
    record: BaseRecord = getattr(module, RECORD_NAME)
    if _OMIT_BASE.get() and record.source is not None:
        for key in record.base_keys:
            state_dict.pop(prefix + key, None)


def follow_base(backbone: nn.Module, but: Container[str] = ()) -> None:
    """Let adapters, but for some, start again from another base."""
    for name, module in adapted_modules(backbone).items():
        if name not in but:
            module.adapter.follow(module)


def _forget_base_keys(module: nn.Module, keys: Any) -> None:
    """Drop the base's keys from the missing ones: the base is in place."""
    record: BaseRecord = getattr(module, RECORD_NAME)
    if record.replaced:
        record.replaced = False
        follow_base(module)
    forgotten = {record.loaded_prefix + key for key in record.may_be_missing}
    keys.missing_keys[:] = [
        key for key in keys.missing_keys if key not in forgotten
    ]


def _check_loaded(
    module: nn.Module,
    state_dict: Mapping[str, Any],
    prefix: str,
    *_: Any,
) -> None:
    """Check a checkpoint against the backbone before it is loaded."""
    record: BaseRecord = getattr(module, RECORD_NAME)
    if record.loading:
        return
    record.loaded_prefix, record.may_be_missing = prefix, ()
    record.replaced = False
    state = {
        key.removeprefix(prefix): value
        for key, value in state_dict.items()
        if key.startswith(prefix) and isinstance(value, Tensor)
    }
    if INFO_KEY in state:
        _check_adapter_checkpoint(module, record, state)
    else:
        check_plain_checkpoint(module, record, state)


def _check_adapter_checkpoint(
    module: nn.Module, record: BaseRecord, state: dict[str, Tensor]
) -> None:
    theirs = BaseRecord.decode(state.pop(INFO_KEY))
    shapes = state_shapes(module)
    base = set(record.base_keys)
    with_base = any(key in base for key in state)
    # Adapters of another project come without norms and statistics.
    absent = record.stock_shapes if theirs['method'].get(IMPORTED) else base
    expected = {
        key: shape
        for key, shape in shapes.items()
        if with_base or key not in absent
    }
    report = compare_keys(float_shapes(state), expected)
    if report:
        raise ValueError(
            'The adapter checkpoint does not fit this backbone '
            f'({type(module).__name__}):\n{report}\n'
            f'It was trained with adapter={theirs["method"]}; this model has '
            f'adapter={record.method}. Build the model with the '
            'configuration that the checkpoint was trained with.'
            + without_adapters(module, state)
        )
    if theirs['method'].get('signature') != record.method.get('signature'):
        raise ValueError(
            'The adapters of the checkpoint have the shapes of this '
            f"model's ({type(module).__name__}) but another meaning, such as "
            f'another scale: they were trained with {theirs["method"]}; this '
            f'model has {record.method}. Build the model with the '
            'configuration that the checkpoint was trained with.'
        )
    if theirs['source'] is not None and theirs['sha256'] is None:
        raise ValueError(
            f"The checkpoint names its base '{theirs['source']['checkpoint']}'"
            ' with no content hash: its record was changed. Take another copy '
            'of the file.'
        )
    check_quantization(module, record, theirs)
    if not base:  # all of it trains, and stands in the checkpoint
        record.set_base(theirs['source'], theirs['sha256'], theirs['origin'])
        return
    if with_base:
        check_base_content(record, state, theirs['sha256'])
        record.set_base(theirs['source'], theirs['sha256'], theirs['origin'])
        return
    if theirs['source'] is None:
        raise ValueError(
            'The adapter checkpoint was trained over a random base, which it '
            'should hold but does not. Without that base its adapters are of '
            'no use: take the file as the training wrote it.'
        )
    record.may_be_missing = record.base_keys
    if same_base(module, record, theirs):
        _say_other_name(module, record, theirs)
        return
    _bring_base(module, record, theirs)


def _say_other_name(
    module: nn.Module, record: BaseRecord, theirs: dict[str, Any]
) -> None:
    ours = (record.source or {}).get('checkpoint')
    if ours != theirs['source']['checkpoint']:
        print_log(
            f"{type(module).__name__} stands on '{ours}', which has the same "
            f"content as '{theirs['source']['checkpoint']}', the base that "
            'the checkpoint names.',
            logger='current',
        )


def _bring_base(
    module: nn.Module, record: BaseRecord, theirs: dict[str, Any]
) -> None:
    """Load the base that an adapter checkpoint names, or refuse."""
    wanted = f"'{theirs['source']['checkpoint']}' (SHA-256 {theirs['sha256']})"
    if record.in_place and theirs['origin'] != 'load_from':
        ours = record.source['checkpoint'] if record.source else 'none'
        raise ValueError(
            f'The adapter checkpoint was trained over the base {wanted}, but '
            f"this model stands on '{ours}' (SHA-256 {record.sha256}). Set "
            '`init_cfg.checkpoint` of the backbone to the base that the '
            'adapters belong to.'
        )
    if any_sharded(base_tensors(module, record).values()):
        raise ValueError(
            f'The adapter checkpoint was trained over the base {wanted}, '
            'which cannot take the place of one that is spread over several '
            'processes. Name it in `init_cfg` of the backbone, so that it is '
            'there when the model is built.'
        )
    try:
        load_recorded_base(module, record, theirs['source'], theirs['origin'])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'The adapter checkpoint needs its base {wanted}, which is not '
            'there. Put the file in its place, or name its new folder in '
            f'the environment: `{BASES}=FOLDER`, in Python '
            f'`os.environ["{BASES}"] = FOLDER`. Its content is checked.'
        ) from error
    if not same_base(module, record, theirs):
        raise ValueError(
            f'The adapter checkpoint was trained over the base {wanted}, but '
            f'that file now holds other weights (SHA-256 {record.sha256}). '
            'Restore the original file.'
        )
