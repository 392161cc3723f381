"""Any registered backbone with a frozen base and adapters."""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from mmflora.adapters import (
    InjectionReport,
    inject,
    tuned_parameters,
)
from mmflora.adapters.inject import Targets
from mmflora.adapters.quantized import Quantization
from mmflora.adapters.quantized_base import (
    check_frozen,
    quantize_base,
    say_quantization,
)
from mmflora.checkpoint.base_weights import CLASSIFIER_KEYS, pretrained_cfg
from mmflora.checkpoint.keys import matches_any, state_shapes
from mmflora.checkpoint.record import BaseRecord, content_hash
from mmflora.checkpoint.state import (
    attach_record,
    base_tensors,
    keep_base,
    load_base,
)
from mmflora.registry import MODELS

from .autocast import run_in_autocast
from .described_method import describe_method


@MODELS.register_module(name='PEFTBackbone')
def build_peft_backbone(
    backbone: Mapping[str, Any],
    adapter: Mapping[str, Any] | None,
    targets: Targets | None = None,
    exclude: str | Iterable[str] = (),
    new_params: Iterable[str] = (),
    unused_keys: Iterable[str] = (),
    autocast: str | None = None,
    lean: bool = False,
    quantize: Mapping[str, Any] | None = None,
    allow_other_quantization: bool = False,
    allow_random_base: bool = False,
) -> nn.Module:
    """Build a registered backbone and adapt it in place.

    Args:
        backbone: Configuration of a backbone of mmdet, mmseg, mmrotate or
            mmflora, with ``init_cfg`` for its base weights.
        adapter: See :func:`adapt_backbone`, as for all that follow.
        targets: Which layers to adapt; by default those that the backbone's
            class names as ``default_targets``, else all.
        exclude: Which layers to leave alone.
        new_params: Patterns of the backbone's parameters that no base holds.
        unused_keys: Patterns of keys of the base's file without use here,
            beside classifiers.
        autocast: ``'bfloat16'``, ``'float16'`` or ``None``.
        lean: Rebuild element-wise outputs instead of keeping them.
        quantize: Keep frozen linear weights in few bits, ``dict(bits=8)``.
        allow_other_quantization: Take adapters trained over the same base
            stored otherwise.
        allow_random_base: Allow training over a base without a source.

    Returns:
        The very backbone that its class built.

    Example:
        >>> backbone = dict(
        ...     type='mmflora.PEFTBackbone',
        ...     backbone=dict(
        ...         type='mmdet.ResNet',
        ...         depth=50,
        ...         norm_eval=True,
        ...         init_cfg=dict(
        ...             type='Pretrained', checkpoint='torchvision://resnet50'
        ...         ),
        ...     ),
        ...     adapter=dict(type='FLoRA', rank=16),
        ... )
    """
    built = MMENGINE_MODELS.build(backbone)
    return adapt_backbone(
        built,
        adapter,
        targets=targets,
        exclude=exclude,
        new_params=new_params,
        unused_keys=unused_keys,
        autocast=autocast,
        lean=lean,
        quantize=quantize,
        allow_other_quantization=allow_other_quantization,
        allow_random_base=allow_random_base,
    )


def adapt_backbone(
    backbone: nn.Module,
    adapter: Mapping[str, Any] | None,
    *,
    targets: Targets | None = None,
    exclude: str | Iterable[str] = (),
    new_params: Iterable[str] = (),
    unused_keys: Iterable[str] = (),
    autocast: str | None = None,
    lean: bool = False,
    quantize: Mapping[str, Any] | None = None,
    allow_other_quantization: bool = False,
    allow_random_base: bool = False,
) -> nn.Module:
    """Load a backbone's base, adapt its layers in place and freeze the rest.

    The base is loaded here, not by ``init_weights``, which the runner skips
    when it tests.

    Args:
        backbone: The backbone; its ``init_cfg`` names the base.
        adapter: Configuration of the method, ``dict(type='FLoRA', ...)``;
            ``None`` freezes the base without any adapter.
        targets: Which layers to adapt, see :func:`mmflora.adapters.inject`;
            by default those that the backbone's class names as
            ``default_targets``, else all.
        exclude: Which layers to leave alone.
        new_params: Patterns of the backbone's parameters that no base holds
            (norms of the outputs, say); they train and are saved.  Added to
            the ``new_params`` that the backbone's class declares.
        unused_keys: Patterns of keys of the base's file without use here,
            beside classifiers.  Added to those that the backbone declares.
        autocast: ``'bfloat16'`` or ``'float16'``: compute the backbone under
            autocast, with float32 features out.
        lean: Rebuild in the backward pass what is cheap to rebuild, see
            :mod:`mmflora.adapters.memory.lean`; else outputs of norms alone.
        quantize: Keep the weights of linear layers, which must be frozen, in
            8 or 4 bits: ``dict(bits=8)``, see
            :class:`mmflora.adapters.quantized.Quantization`.  Adapters train
            over them; the log says at which error.
        allow_other_quantization: Take adapters that were trained over the
            same base stored otherwise, which is an error by default.
        allow_random_base: Allow training over a base without a source; it is
            then saved along in every checkpoint.

    Returns:
        The same backbone.

    Raises:
        FileNotFoundError: If the base's file is missing.
        MissingBitsAndBytes: If ``quantize`` needs the library.
        ValueError: If the base does not fit in full, a pattern matches
            nothing, or a weight is to train and to be quantised.
    """
    new = (*getattr(backbone, 'new_params', ()), *_tuple(new_params))
    unused = (
        *CLASSIFIER_KEYS,
        *getattr(backbone, 'unused_keys', ()),
        *_tuple(unused_keys),
    )
    if targets is None:
        targets = getattr(backbone, 'default_targets', '.*')
    shapes = state_shapes(backbone)
    source = pretrained_cfg(getattr(backbone, 'init_cfg', None))
    quantization = Quantization.of(quantize)
    if quantization is not None:
        quantize_base(backbone, quantization, fill=source is None)
    if source is not None:
        load_base(backbone, source, shapes, new, unused)
    report = InjectionReport()
    if adapter is None:
        backbone.requires_grad_(False)
    else:
        report = inject(backbone, adapter, targets, exclude, lean)
        _say_report(backbone, report)
    base, new_names, tuned = _split_base(backbone, shapes, new)
    check_frozen(backbone, (*new_names, *tuned))
    _check_train_mode(backbone)
    record = BaseRecord(
        base,
        new_names,
        method=describe_method(
            backbone, adapter, targets, exclude, quantization
        ),
        allow_random=allow_random_base,
        stock_shapes=shapes,
        optional=new,
        unused=unused,
        tuned_keys=tuned,
        other_quantization=allow_other_quantization,
    )
    attach_record(backbone, record)
    if source is not None:
        sha256 = content_hash(base_tensors(backbone, record))
        record.set_base(source, sha256, 'init_cfg')
        keep_base(backbone)
    if source is not None or allow_random_base:
        say_quantization(backbone)
    if autocast is not None:
        run_in_autocast(backbone, autocast)
    return backbone


def _split_base(
    backbone: nn.Module,
    shapes: Mapping[str, Any],
    new_params: tuple[str, ...],
) -> tuple[list[str], list[str], list[str]]:
    """Unfreeze the new parameters.

    Returns:
        The names of the frozen base, of the new ones, and of those of the
        base that a tuning method trains.
    """
    base, new, tuned = [], [], []
    trained = tuned_parameters(backbone)
    for name, parameter in backbone.named_parameters():
        if name not in shapes:
            continue  # an adapter's
        if matches_any(new_params, name):
            parameter.requires_grad_(True)
            new.append(name)
        elif name in trained:
            tuned.append(name)
        else:
            base.append(name)
    for pattern in new_params:
        if not any(re.fullmatch(pattern, name) for name in new):
            raise ValueError(
                f'`new_params`: {pattern!r} matches no parameter of '
                f'{type(backbone).__name__}. A pattern must match the whole '
                "name of a parameter, such as r'norm0\\.weight'."
            )
    return base, new, tuned


def _check_train_mode(backbone: nn.Module) -> None:
    """Refuse a backbone whose ``train()`` freezes what is to train.

    Classes of OpenMMLab freeze their ``frozen_stages`` there, long after the
    optimizer has been given the parameters.

    Raises:
        ValueError: If it does; the parameters are named.
    """
    trains = [n for n, p in backbone.named_parameters() if p.requires_grad]
    backbone.train(backbone.training)
    frozen = [
        name
        for name in trains
        if not backbone.get_parameter(name).requires_grad
    ]
    if frozen:
        raise ValueError(
            f'{type(backbone).__name__}.train() freezes {len(frozen)} '
            f'parameters that are to train: {", ".join(frozen[:4])}, … Set '
            '`frozen_stages=-1` of the backbone, as its base is frozen in '
            'any case, or leave these layers out with `exclude`.'
        )


def _say_report(backbone: nn.Module, report: InjectionReport) -> None:
    """Log once what injection left out, and what adapters changed."""
    name = type(backbone).__name__
    if report.left_out:
        lines = [f'  {key}: {why}' for key, why in report.left_out.items()]
        print_log(
            f'{name}: {len(report.adapted)} layers adapted, {len(lines)} '
            'matched by `targets` left frozen:\n' + '\n'.join(lines),
            logger='current',
            level=logging.WARNING,
        )
    if report.remarks:
        first, remark = next(iter(report.remarks.items()))
        print_log(
            f'{name}: {len(report.remarks)} adapters differ from their '
            f"settings, such as '{first}': {remark}.",
            logger='current',
        )


def _tuple(patterns: str | Iterable[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)
