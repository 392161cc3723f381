"""Loading base weights into a backbone, with every key accounted for."""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

from mmengine.config import ConfigDict
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict
from torch import Tensor, nn

from mmflora.files.sources import check_source, find_source, read_state_dict

from .fit import Fit, check_base_finite, conversion_remedy, misfit
from .keys import (
    KeyReport,
    Shapes,
    compare_keys,
    computed_buffers,
    float_shapes,
    state_shapes,
)
from .layouts import unused_keys
from .layouts.swin_keys import as_mmdet_reads
from .layouts.vit_keys import with_resized_tables

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


def load_base(
    backbone: nn.Module,
    init_cfg: Mapping[str, Any],
    shapes: Shapes,
    optional: Iterable[str] = (),
    unused: Iterable[str] = (),
) -> None:
    """Load a base, with every key accounted for.

    A class that reads published files itself has ``load_published``.  Any
    other class loads with its own ``init_weights``.  It gets the weights
    without wrappers, and the state dict that it then loads is fitted to its
    parameters and compared with them.

    Args:
        backbone: Any backbone whose ``init_weights`` follows ``init_cfg``.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix=...)``.
        shapes: The shapes to fill by key, without any adapter's.
        optional: Patterns of these keys that the file may lack.
        unused: Patterns of the file's keys that the backbone may lack, beside
            classifiers and those that its family is known for.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If nothing was loaded, or a key of the base is missing,
            unknown or of another shape; all are listed.
    """
    source = find_source(init_cfg['checkpoint'])
    check_source(source)
    init_cfg = {**init_cfg, 'checkpoint': source}
    unused = (*unused, *unused_keys(backbone))
    own: Any = getattr(backbone, 'load_published', None)
    if own is not None:
        own(init_cfg, shapes, optional, unused)
        check_base_finite(source, backbone, shapes)
        return
    fit = Fit(shapes, (*optional, *computed_buffers(backbone)), unused)
    _load_by_class(backbone, init_cfg, fit)
    fit.conclude(source, backbone)
    check_base_finite(source, backbone, shapes)


def account(
    backbone: nn.Module,
    init_cfg: Mapping[str, Any],
    optional: Iterable[str] = (),
    unused: Iterable[str] = (),
) -> KeyReport:
    """Find out what of a base's file does not fit a backbone.

    The backbone loads what fits.  One whose class reads published files
    itself declares what they lack, and is not asked.

    Args:
        backbone: As for :func:`load_base`, and so are the rest.
        init_cfg: See there.
        optional: See there.
        unused: See there.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it cannot be read, or nothing was loaded.
    """
    if hasattr(backbone, 'load_published'):
        return KeyReport()
    source = find_source(init_cfg['checkpoint'])
    shapes = state_shapes(backbone)
    unused = (*unused, *unused_keys(backbone))
    optional = (*optional, *computed_buffers(backbone))
    fit = Fit(shapes, optional, unused)
    _load_by_class(backbone, {**init_cfg, 'checkpoint': source}, fit)
    return compare_keys(fit.offered, shapes, optional, unused)


def _load_by_class(
    backbone: nn.Module, init_cfg: Mapping[str, Any], fit: Fit
) -> None:
    """Let a class load its weights by itself, fitted to its parameters."""
    source, prefix = init_cfg['checkpoint'], init_cfg.get('prefix')
    stored = read_state_dict(source, prefix)
    weights = with_resized_tables(backbone, stored, fit.shapes)
    weights = as_mmdet_reads(backbone, weights)
    with _offers(backbone, fit, prefix), _handed_over(source, weights):
        _run_init_weights(backbone, init_cfg)
    if not fit.offered:
        raise ValueError(
            f"{type(backbone).__name__} loaded nothing from '{source}': its "
            'init_weights() does not follow `init_cfg`. Wrap it in a class '
            'whose init_weights() does.'
        )
    fit.note_resized(float_shapes(stored))


def load_converted(
    model: nn.Module,
    init_cfg: Mapping[str, Any],
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    shapes: Shapes,
    optional: Iterable[str],
    unused: Iterable[str],
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> None:
    """Load weights of any layout that a model's class can convert.

    Nothing is loaded unless all fits.  ``rename`` gives weights other keys,
    ``convert`` those of the model, and perhaps other sizes; the rest is as
    for :func:`load_base`.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If a key of the base is missing, unknown or of another
            shape; all are listed.
    """
    source = init_cfg['checkpoint']
    stored = read_state_dict(source, init_cfg.get('prefix'))
    fit = Fit(shapes, tuple(optional), tuple(unused))
    try:
        stored = rename(stored)
    except ValueError as error:
        raise misfit(source, model, f'  {error}') from error
    fitted = fit(convert(stored))
    fit.note_resized(float_shapes(stored))
    fit.conclude(source, model)
    load_state_dict(model, fitted, strict=False, logger='silent')


def load_own_keys(
    model: nn.Module,
    init_cfg: Mapping[str, Any],
    shapes: Shapes,
    optional: Iterable[str],
    unused: Iterable[str],
) -> None:
    """Load weights whose keys are the module's own.

    The checkpoint of a whole model has them, for each of its modules under
    the module's path.  The arguments and errors are those of
    :func:`load_converted`.
    """
    source = find_source(init_cfg['checkpoint'])

    def resized(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(with_resized_tables(model, state, shapes))

    init_cfg = {**init_cfg, 'checkpoint': source}
    load_converted(model, init_cfg, resized, shapes, optional, unused)
    check_base_finite(source, model, shapes)


def _run_init_weights(
    backbone: nn.Module, init_cfg: Mapping[str, Any]
) -> None:
    source = init_cfg['checkpoint']
    # Some classes read it by attribute, as a configuration allows; the
    # prefix has been cut off.
    backbone.init_cfg = ConfigDict(type='Pretrained', checkpoint=source)
    if hasattr(backbone, 'pretrained'):
        backbone.pretrained = source
    backbone._is_init = False  # type: ignore[assignment]
    kind: Any = type(backbone)
    try:
        kind.init_weights(backbone)
    except _LOADING_ERRORS as error:
        if isinstance(error, ValueError) and source in str(error):
            raise
        raise ValueError(
            f"{type(backbone).__name__} cannot load '{source}' "
            f'({type(error).__name__}: {error}). Check that the file is '
            'whole and in the layout that this class reads, and '
            '`init_cfg.prefix`.' + conversion_remedy(backbone)
        ) from error
    finally:
        backbone.init_cfg = ConfigDict(init_cfg)


class _Weights(OrderedDict[str, Any]):
    """Bare weights, which also are what stands under any wrapper's key."""

    def __missing__(self, key: str) -> Any:
        if key in ('state_dict', 'model'):
            return self
        raise KeyError(key)


@contextmanager
def _handed_over(source: str, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let MMEngine's loaders find weights under the name of their file.

    Classes read wrappers and prefixes each in its own way, or not at all.
    """

    def load_from_base(_filename: str, _map_location: Any = None) -> _Weights:
        return _Weights(weights)

    schemes = CheckpointLoader._schemes
    # First in the order in which MMEngine looks.
    CheckpointLoader._schemes = OrderedDict(
        {re.escape(source) + '$': load_from_base, **schemes}
    )
    try:
        yield
    finally:
        CheckpointLoader._schemes = schemes


@contextmanager
def _offers(module: nn.Module, fit: Fit, part: str | None) -> Iterator[None]:
    """Fit every state dict that a module is about to load."""
    start = f'{part.removesuffix(".")}.' if part else ''

    def refit(
        _module: nn.Module, state: dict[str, Any], prefix: str, *_: Any
    ) -> None:
        weights = {
            key.removeprefix(prefix): state.pop(key)
            for key in list(state)
            if key.startswith(prefix) and isinstance(state[key], Tensor)
        }
        if start and all(key.startswith(start) for key in weights):
            # The class has read the file by itself.
            weights = {k.removeprefix(start): v for k, v in weights.items()}
        state.update({prefix + k: v for k, v in fit(weights).items()})

    handle = module.register_load_state_dict_pre_hook(refit)
    try:
        yield
    finally:
        handle.remove()
