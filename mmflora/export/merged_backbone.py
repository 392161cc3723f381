"""Backbones on timm's models for OpenMMLab, without any other package.

This file belongs beside a config that names ``TimmConvNeXt`` or
``TimmIntermediates``; the config loads it from its own folder.  It needs
torch, timm and mmengine alone, so that a merged model runs wherever
OpenMMLab does.  Parameters have timm's own keys.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from timm.layers import LayerNorm2d
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


# Several configs may each have a copy of this file.
@MODELS.register_module(force=True)
class TimmConvNeXt(BaseModule):
    """ConvNeXt or ConvNeXt-V2 with a norm per output, for dense prediction.

    Args:
        arch: timm's name of the architecture, ``'convnextv2_large'``, or a
            dict of arguments for timm's ``ConvNeXt``.
        out_indices: The stages whose features are returned, ascending out of
            ``(0, 1, 2, 3)``; stages after the last of them are not built.
        drop_path_rate: Stochastic depth, growing linearly to this rate.
        with_cp: Recompute each block in the backward pass.
        channels_last: Compute in the channels-last memory format.
        init_cfg: As for any module of MMEngine.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        channels_last: bool = False,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        settings: dict[str, Any] = dict(
            num_classes=0, drop_path_rate=drop_path_rate
        )
        if isinstance(arch, str):
            net = timm.create_model(arch, pretrained=False, **settings)
        else:
            net = ConvNeXt(**{**arch, **settings})
        self.out_indices = tuple(out_indices)
        self.with_cp = with_cp
        self.channels_last = channels_last
        self.stem = net.stem
        self.stages = net.stages[: self.out_indices[-1] + 1]
        for index in self.out_indices:
            width = net.feature_info[index]['num_chs']
            self.add_module(f'norm{index}', LayerNorm2d(width))
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return one tensor ``(N, C_i, H_i, W_i)`` per output stage.

        Args:
            inputs: Images, shape ``(N, 3, H, W)``.
        """
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        x = self.stem(inputs)
        outputs = []
        for index, stage in enumerate(self.stages):
            x = stage.downsample(x)
            for block in stage.blocks:
                if self.with_cp and torch.is_grad_enabled():
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            if index in self.out_indices:
                # timm's blocks return permuted views, on which operators
                # such as mmcv's RoIAlign are silently wrong.
                norm = self.get_submodule(f'norm{index}')
                outputs.append(norm(x).contiguous())
        return tuple(outputs)


class _Intermediates:
    """Returns intermediate features; mixed into a class of timm."""

    out_indices: tuple[int, ...]

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return one contiguous ``(N, C_i, H_i, W_i)`` per index."""
        features = self.forward_intermediates(  # type: ignore[attr-defined]
            inputs, indices=list(self.out_indices), intermediates_only=True
        )
        return tuple(feature.contiguous() for feature in features)

    def init_weights(self, *_: Any, **__: Any) -> None:
        """Keep the weights: a checkpoint brings them."""


@MODELS.register_module(name='TimmIntermediates', force=True)
def build_timm_intermediates(
    model_name: str,
    out_indices: Sequence[int],
    init_cfg: Any = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a model of timm that returns intermediate features.

    Args:
        model_name: timm's name of the model.
        out_indices: The features to return, as timm counts them.
        init_cfg: Kept for OpenMMLab; nothing is loaded from it.
        **kwargs: Arguments of the model.
    """
    model = timm.create_model(model_name, pretrained=False, **kwargs)
    indices = tuple(out_indices)
    model.prune_intermediate_layers(list(indices), prune_norm=True)
    kind = type(model)
    model.__class__ = type(kind.__name__, (_Intermediates, kind), {})
    model.out_indices = indices
    model.init_cfg = init_cfg
    return model
