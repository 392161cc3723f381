"""Frozen parts of models, with adapters; any registered backbone as one."""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from mmengine.logging import print_log
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from mmflora.adapters import (
    InjectionReport,
    inject,
    set_calibration,
    tuned_parameters,
)
from mmflora.adapters.inject import Targets
from mmflora.adapters.quantized import Quantization
from mmflora.adapters.quantized_base import (
    check_frozen,
    quantize_base,
    say_quantization,
)
from mmflora.checkpoint.base_weights import (
    load_base,
    load_own_keys,
    pretrained_cfg,
)
from mmflora.checkpoint.keys import matches_any, state_shapes
from mmflora.checkpoint.record import BaseRecord, note_base
from mmflora.checkpoint.state import attach_record, keep_base
from mmflora.registry import MODELS

from .autocast import run_in_autocast
from .described_method import describe_method
from .peft_options import PEFTOptions
from .text_models import support_text_detectors
from .train_mode import keep_statistics, release_stages


@MODELS.register_module(name='PEFTBackbone')
def build_peft_backbone(
    backbone: Mapping[str, Any],
    peft: Mapping[str, Any] | None = None,
    **settings: Any,
) -> nn.Module:
    """Build a registered backbone and adapt it in place.

    Args:
        backbone: Configuration of a backbone of mmdet, mmseg, mmrotate or
            mmflora, with ``init_cfg`` for its base weights.
        peft: How it is adapted, see
            :class:`mmflora.models.peft_options.PEFTOptions`.
        **settings: The same settings, each by itself.

    Returns:
        The very backbone that its class built.

    Raises:
        TypeError: If there is no such setting.
        ValueError: See :func:`adapt_backbone`.

    Example:
        >>> backbone = dict(
        ...     type='mmflora.PEFTBackbone',
        ...     backbone=dict(
        ...         type='mmdet.ResNet',
        ...         depth=50,
        ...         init_cfg=dict(
        ...             type='Pretrained', checkpoint='torchvision://resnet50'
        ...         ),
        ...     ),
        ...     peft=dict(adapter=dict(type='FLoRA', rank=16)),
        ... )
    """
    options = PEFTOptions.take(settings, peft)
    if settings:
        PEFTOptions.of(settings)  # which names the nearest
    built = MMENGINE_MODELS.build(backbone)
    support_text_detectors()
    return adapt_backbone(built, options)


class FrozenBackbone:
    """Gives a class of backbones the option ``peft``; stands before it.

    Args:
        *args: As for the backbone's class; ``init_cfg`` names the frozen
            base, which is loaded here.
        peft: How it is adapted, see
            :class:`mmflora.models.peft_options.PEFTOptions`.
        **kwargs: As for the backbone's class; settings of ``peft`` may stand
            here too.

    Attributes:
        default_adapter: The method where none is named.
        peft_options: The settings, known before anything is built.

    Raises:
        FileNotFoundError: If the base's file is missing.
        TypeError: If ``peft`` has no such setting.
        ValueError: If the base does not fit in full, or a pattern matches
            nothing.
    """

    default_adapter: ClassVar[Mapping[str, Any] | None] = None

    def __init__(
        self,
        *args: Any,
        peft: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # `autocast` is an argument of mmflora's own backbones.
        self.peft_options = PEFTOptions.take(
            kwargs, peft, ('autocast',), self.default_adapter
        )
        super().__init__(*args, **kwargs)
        backbone: Any = self
        adapt_backbone(backbone, self.peft_options)


def adapt_backbone(backbone: nn.Module, options: PEFTOptions) -> nn.Module:
    """Make a backbone a frozen part over the base that its ``init_cfg`` names.

    The base is loaded here, not by ``init_weights``, which the runner skips
    when it tests.

    Raises:
        FileNotFoundError: If the base's file is missing.
        MissingBitsAndBytes: If ``quantize`` needs the library.
        ValueError: See :func:`freeze_part`.
    """
    source = pretrained_cfg(getattr(backbone, 'init_cfg', None))
    # DetectoRS_ResNet keeps the file's name alone.
    name = getattr(backbone, 'pretrained', None)
    if source is None and isinstance(name, str):
        source = dict(type='Pretrained', checkpoint=name)
    freeze_part(backbone, options, source)
    if source is not None:
        keep_base(backbone)
    return backbone


def freeze_part(
    part: nn.Module,
    options: PEFTOptions,
    source: Mapping[str, Any] | None,
    own_keys: bool = False,
) -> None:
    """Load a module's base, adapt its layers in place and freeze the rest.

    Args:
        part: A backbone, or any module of a model.
        options: How it is adapted.
        source: The ``init_cfg`` of its base; ``None`` for no base yet.
        own_keys: Whether the file has the module's own keys, as the
            checkpoint of a whole model has; else the module's class reads
            it, in any layout that it knows.

    Raises:
        FileNotFoundError: If the base's file is missing.
        MissingBitsAndBytes: If ``quantize`` needs the library.
        ValueError: If the base does not fit in full, a pattern matches
            nothing, or a weight is to train and to be quantized.
    """
    new = _declared(part, 'new_params', options.new_params)
    unused = _declared(part, 'unused_keys', options.unused_keys)
    shapes = state_shapes(part)
    quantization = Quantization.of(options.quantize)
    if quantization is not None:
        quantize_base(part, quantization, fill=source is None)
    if source is not None:
        load = load_own_keys if own_keys else load_base
        load(part, source, shapes, new, unused)
    targets = _inject(part, options)
    set_calibration(part, options.calibration)
    base, new_names, tuned = _split_base(part, shapes, new)
    check_frozen(part, (*new_names, *tuned))
    # Noted by name: a conversion to SyncBN replaces the tuned layers.
    tunings = tuned_parameters(part)
    release_stages(part)
    keep_statistics(part, shapes, new_names, options.norm_eval)
    record = BaseRecord(
        base,
        new_names,
        method=describe_method(
            part, options.adapter, targets, options.exclude, quantization
        ),
        allow_random=options.allow_random_base,
        stock_shapes=shapes,
        optional=new,
        unused=unused,
        tuned_keys=tuned,
        steady_keys=[key for key in tuned if not tunings[key].ordinary],
        other_quantization=options.allow_other_quantization,
        own_keys=own_keys,
    )
    attach_record(part, record)
    if source is not None:
        note_base(part, record, source, 'init_cfg')
    if source is not None or options.allow_random_base:
        say_quantization(part)
    if options.autocast is not None:
        run_in_autocast(part, options.autocast)


def _inject(backbone: nn.Module, options: PEFTOptions) -> Targets:
    """Put the adapters in place; return which layers they were meant for."""
    targets = options.targets
    if targets is None:
        targets = getattr(backbone, 'default_targets', '.*')
    if options.adapter is None:
        backbone.requires_grad_(False)
    else:
        report = inject(
            backbone, options.adapter, targets, options.exclude, options.lean
        )
        _say_report(backbone, report)
    return targets


def _declared(
    backbone: nn.Module, name: str, more: str | Iterable[str]
) -> tuple[str, ...]:
    """Return patterns that a backbone's class and its config name."""
    more = (more,) if isinstance(more, str) else tuple(more)
    return (*getattr(backbone, name, ()), *more)


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
        if not any(re.fullmatch(pattern, name) for name in (*new, *shapes)):
            raise ValueError(
                f'`new_params`: {pattern!r} matches no parameter of '
                f'{type(backbone).__name__}. A pattern must match the whole '
                "name of a parameter, such as r'norm0\\.weight'."
            )
    return base, new, tuned


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
