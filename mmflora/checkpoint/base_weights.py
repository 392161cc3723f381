"""Loading base weights into a backbone, with every key accounted for."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

from mmengine.config import ConfigDict
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

from mmflora.files.sources import check_source, read_state_dict

from .keys import Shapes, compare_keys, float_shapes
from .layouts.convnext_keys import convnext_to_timm

# Classifiers of published weights, for which a dense backbone has no use.
CLASSIFIER_KEYS = (r'(head|fc|classifier)\..*',)

# What a backbone's own loading raises where a file is not as it expects.
_LOADING_ERRORS = (
    AssertionError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    UnpicklingError,
    ValueError,
)


def pretrained_cfg(init_cfg: Any) -> dict[str, Any] | None:
    """Return the part of an ``init_cfg`` that names pretrained weights.

    Args:
        init_cfg: ``None``, a dict or a list of dicts, as MMEngine has it.

    Raises:
        ValueError: If weights are named without a checkpoint.
    """
    if not init_cfg:
        return None
    configs = [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg
    for config in configs:
        kind = config.get('type')
        name = getattr(kind, '__name__', kind)
        if name not in ('Pretrained', 'PretrainedInit'):
            continue
        if not isinstance(config.get('checkpoint'), str):
            raise ValueError(
                "`init_cfg` of type 'Pretrained' names no checkpoint: "
                f'{dict(config)!r}. Add checkpoint=<file, URL or timm://tag>.'
            )
        return {
            key: config[key]
            for key in ('type', 'checkpoint', 'prefix')
            if config.get(key) is not None
        } | {'type': 'Pretrained'}
    return None


def load_convnext(
    model: nn.Module,
    init_cfg: Mapping[str, Any],
    shapes: Shapes,
    optional: Iterable[str],
    unused: Iterable[str] = CLASSIFIER_KEYS,
) -> None:
    """Load published ConvNeXt weights of any layout into timm's blocks.

    Args:
        model: A ConvNeXt with timm's keys.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix=...)``.
        shapes: The shapes to fill by key, without any adapter's.
        optional: Patterns of these keys that the file may lack.
        unused: Patterns of the file's keys that the model may lack.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If a key of the base is missing, unknown or of another
            shape; all are listed.
    """
    source = init_cfg['checkpoint']
    state = read_state_dict(source, init_cfg.get('prefix'))
    state = convnext_to_timm(state, shapes)
    report = compare_keys(float_shapes(state), shapes, optional, unused)
    if report:
        raise ValueError(mismatch_message(source, model, str(report)))
    kept = {key: value for key, value in state.items() if key in shapes}
    load_state_dict(model, kept, strict=False, logger='silent')


def load_base(
    backbone: nn.Module,
    init_cfg: Mapping[str, Any],
    shapes: Shapes,
    optional: Iterable[str] = (),
    unused: Iterable[str] = CLASSIFIER_KEYS,
) -> None:
    """Load a base with the backbone's own ``init_weights``, and check it.

    Whatever conversion the backbone's class does on loading stays its own;
    what it finally offers to its parameters is compared with them.  A class
    with ``checks_base = True`` has compared them itself.

    Args:
        backbone: Any backbone whose ``init_weights`` follows ``init_cfg``.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix=...)``.
        shapes: The shapes to fill by key, without any adapter's.
        optional: Patterns of these keys that the file may lack.
        unused: Patterns of the file's keys that the backbone may lack.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If nothing was loaded, or a key of the base is missing,
            unknown or of another shape; all are listed.
    """
    source = init_cfg['checkpoint']
    check_source(source)
    # Some classes read it by attribute, as a configuration allows.
    backbone.init_cfg = ConfigDict(init_cfg)
    backbone._is_init = False  # type: ignore[assignment]
    kind: Any = type(backbone)
    with _offered_keys(backbone) as offered:
        try:
            kind.init_weights(backbone)
        except _LOADING_ERRORS as error:
            if isinstance(error, ValueError) and source in str(error):
                raise
            raise ValueError(
                f"{type(backbone).__name__} cannot load '{source}' "
                f'({type(error).__name__}: {error}). Check that the file is '
                'whole and in the layout that this class reads, and '
                '`init_cfg.prefix`.'
            ) from error
    if getattr(kind, 'checks_base', False):
        return
    if not offered:
        raise ValueError(
            f"{type(backbone).__name__} loaded nothing from '{source}': its "
            'init_weights() does not follow `init_cfg`. Wrap it in a class '
            'whose init_weights() does.'
        )
    report = compare_keys(offered, shapes, optional, unused)
    if report:
        raise ValueError(mismatch_message(source, backbone, str(report)))


@contextmanager
def _offered_keys(
    module: nn.Module,
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Collect keys and shapes of all state dicts loaded into a module."""
    offered: dict[str, tuple[int, ...]] = {}

    def collect(
        _module: nn.Module,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        *_: Any,
    ) -> None:
        tensors = {
            key.removeprefix(prefix): value
            for key, value in state_dict.items()
            if key.startswith(prefix) and isinstance(value, Tensor)
        }
        offered.update(float_shapes(tensors))

    handle = module.register_load_state_dict_pre_hook(collect)
    try:
        yield offered
    finally:
        handle.remove()


def mismatch_message(source: str, model: nn.Module, report: str) -> str:
    """Say that a base does not fit, what of it, and what to do."""
    return (
        f"The base weights '{source}' do not fit "
        f'{type(model).__name__}:\n{report}\n'
        'A base must fit in full. Check that the file is for this '
        'architecture and size and set `init_cfg.prefix` for a part of a '
        'larger model; parameters that no base holds are named by '
        '`new_params`, keys of the file without use by `unused_keys`.'
    )
