"""Tries a method on each kind of layer: injects, runs, merges, runs."""

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmflora.adapters import inject, merge, random_starts
from mmflora.adapters.blocks import BlockAdapter
from mmflora.models import ConvNeXt
from mmflora.models.plain.timm_intermediates import (
    Intermediates,
    build_timm_intermediates,
)
from mmflora.registry import ADAPTERS

LAYERS = {
    'linear': lambda: nn.Linear(64, 128),
    'conv 1×1': lambda: nn.Conv2d(64, 128, 1),
    'conv 3×3': lambda: nn.Conv2d(64, 128, 3, padding=1),
    'dilated': lambda: nn.Conv2d(64, 128, 3, padding=2, dilation=2),
    'grouped': lambda: nn.Conv2d(64, 128, 3, padding=1, groups=2),
    'depthwise': lambda: nn.Conv2d(64, 64, 7, padding=3, groups=64),
    'transposed': lambda: nn.ConvTranspose2d(64, 128, 2, stride=2),
    'embedding': lambda: nn.Embedding(100, 64),
    'norm': lambda: nn.LayerNorm(64),
}
BLOCKS = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
TRANSFORMER = dict(embed_dim=16, depth=2, num_heads=2)
MERGES, ADAPTS, NEITHER = '●', '○', '–'


@dataclass
class Outcome:
    """What came of one method on one layer.

    Attributes:
        mark: One of the three marks of the page.
        reason: Why it is not the first of them.
    """

    mark: str
    reason: str = ''


def try_part(
    model: nn.Module, config: Mapping[str, Any], targets: str, inputs: Tensor
) -> Outcome:
    """Try one method on a part of a small model.

    Args:
        model: The model, which is changed.
        config: The adapter.
        targets: A pattern of the parts to adapt.
        inputs: An input of the model.

    Raises:
        RuntimeError: If training the adapter would change nothing, or the
            merged model computes something else: the method is broken.
    """
    keys = list(model.eval().state_dict())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            inject(model, config, targets=targets)
            random_starts(model)
    except (TypeError, ValueError) as error:
        return Outcome(NEITHER, _reason(str(error)))
    with torch.no_grad():
        start = model(inputs)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        adapted = model(inputs)
        if torch.equal(adapted, start):
            raise RuntimeError(f'{config} does not change {targets}')
        try:
            merge(model)
        except ValueError as error:
            if list(model.state_dict()) != keys:
                return Outcome(ADAPTS, _why_unmergeable(model, error))
        merged = model(inputs)
    difference = float((merged - adapted).abs().max() / adapted.abs().max())
    if difference > 1e-3 or list(model.state_dict()) != keys:
        raise RuntimeError(f'{config} merges wrongly into {targets}')
    return Outcome(MERGES)


def _why_unmergeable(model: nn.Module, error: ValueError) -> str:
    """Return what an adapter says of itself, else what the merge said."""
    own = [getattr(item, 'why_not_mergeable', '') for item in model.modules()]
    return (max(own, key=len) or _reason(str(error))).rstrip('.!')


def example_input(layer: nn.Module) -> Tensor:
    """Return an input for one of the page's layers."""
    if isinstance(layer, nn.Embedding):
        return torch.arange(8)
    if isinstance(layer, nn.Linear | nn.LayerNorm):
        return torch.randn(4, 64)
    return torch.randn(2, 64, 8, 8)


def try_method(config: Mapping[str, Any]) -> dict[str, Outcome]:
    """Try one method on every kind of layer, and on blocks."""
    outcomes = {}
    for kind, build in LAYERS.items():
        torch.manual_seed(0)
        layer = build()
        model = nn.Sequential(OrderedDict(layer=layer))
        inputs = example_input(layer)
        outcomes[kind] = try_part(model, config, 'layer', inputs)
    outcomes['block'] = Outcome(NEITHER)
    method = ADAPTERS.get(config['type'])
    if isinstance(method, type) and issubclass(method, BlockAdapter):
        for build in (convolutional, plain_transformer):
            torch.manual_seed(0)
            tried = try_part(build(), config, '.*', torch.randn(2, 3, 64, 64))
            if outcomes['block'].mark == NEITHER:
                outcomes['block'] = tried
    return outcomes


def convolutional() -> nn.Module:
    """Return a small ConvNeXt."""
    return Features(BLOCKS)


def plain_transformer() -> nn.Module:
    """Return a small vision transformer."""
    return build_timm_intermediates(
        'vit_tiny_patch16_224', [1], None, LastFeature, **TRANSFORMER
    )


class LastFeature(Intermediates):
    """A model of timm that returns the last of its features alone."""

    def forward(self, inputs: Tensor) -> Tensor:  # type: ignore[override]
        """Return shape ``(N, C, H, W)``."""
        return super().forward(inputs)[-1]


class Features(ConvNeXt):
    """A ConvNeXt that returns the last of its features alone."""

    def forward(self, inputs: Tensor) -> Tensor:  # type: ignore[override]
        """Return shape ``(N, C, H, W)``."""
        return super().forward(inputs)[-1]


def _reason(text: str) -> str:
    """Return the reason within an error of the injection or the merge."""
    text = text.replace('\n', ' ')
    if "('layer': " in text:
        text = text.split("('layer': ", 1)[1].split('). Choose other')[0]
    elif text.startswith("Layer 'layer'"):
        text = text.split(': ', 1)[1]
    return text.rstrip('.')
