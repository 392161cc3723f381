"""ConvNeXt and ConvNeXt-V2 as backbones for dense tasks, on timm's blocks.

Liu et al., "A ConvNet for the 2020s" (2022); Woo et al., "ConvNeXt V2:
Co-designing and Scaling ConvNets with Masked Autoencoders" (2023).  Stem and
stages are timm's, under timm's keys; added for dense prediction are a norm
per output level, and activation checkpointing that is not re-entrant, which
passes gradients to adapters behind a frozen stem.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from mmengine.model import BaseModule
from timm.layers import LayerNorm2d
from timm.models import convnext as timm_convnext
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmflora.adapters.memory.response_norm import use_memory_efficient_grn
from mmflora.checkpoint.base_weights import load_convnext, pretrained_cfg
from mmflora.checkpoint.keys import state_shapes
from mmflora.registry import MODELS

from .autocast import run_in_autocast


@MODELS.register_module()
class ConvNeXt(BaseModule):
    """A ConvNeXt or ConvNeXt-V2 backbone.

    Args:
        arch: timm's name of the architecture, ``'convnext_tiny'`` …,
            ``'convnextv2_atto'`` to ``'convnextv2_huge'``; or a dict of
            arguments for timm's ``ConvNeXt`` (``depths``, ``dims``,
            ``use_grn``, …).
        out_indices: The stages whose features are returned, out of
            ``(0, 1, 2, 3)``; stage ``i`` has stride ``4 · 2^i``.  Stages
            after the last of them are not built.
        drop_path_rate: Stochastic depth, growing linearly to this rate.
        with_cp: Recompute each block in the backward pass instead of keeping
            its activations.
        channels_last: Keep convolution weights and activations in the
            channels-last memory format.
        autocast: ``'bfloat16'`` or ``'float16'``: compute under autocast,
            with float32 features out; ``None``: do not.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a local
            file in FAIR's, timm's or mmpretrain's layout, a URL, or
            ``timm://<tag>``; ``prefix='backbone.'`` takes the backbone of a
            detector.  Every key must fit.

    Raises:
        ValueError: If ``arch`` is unknown or ``out_indices`` are not
            ascending stages.

    Example:
        >>> backbone = dict(
        ...     type='mmflora.ConvNeXt',
        ...     arch='convnextv2_large',
        ...     init_cfg=dict(type='Pretrained', checkpoint='v2_large.pt'),
        ... )
    """

    # The norms of the outputs stand in no published checkpoint.
    new_params: tuple[str, ...] = (r'norm[0-3]\.(weight|bias)',)
    # timm's last norm and classifier; FAIR's and mmpretrain's become these.
    # mmpretrain and mmflora itself keep norms of outputs beside the stages.
    unused_keys: tuple[str, ...] = (
        r'head\..*',
        r'norm[0-3]\.(weight|bias)',
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'convnextv2_large',
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        channels_last: bool = False,
        autocast: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.arch = arch
        self.out_indices = _check_out_indices(out_indices)
        self.with_cp = with_cp
        self.channels_last = channels_last
        net = _build_timm(arch, drop_path_rate)
        depth = self.out_indices[-1] + 1
        self.stem = net.stem
        self.stages = net.stages[:depth]
        self.out_channels = tuple(
            net.feature_info[index]['num_chs'] for index in self.out_indices
        )
        for index, width in zip(
            self.out_indices, self.out_channels, strict=True
        ):
            self.add_module(f'norm{index}', LayerNorm2d(width))
        use_memory_efficient_grn(self)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        if autocast is not None:
            run_in_autocast(self, autocast)
        self.stock_shapes = state_shapes(self)
        built = '|'.join(str(stage) for stage in range(depth))
        self.unused_keys = (
            *type(self).unused_keys,
            rf'stages\.(?!({built})\.).*',
        )

    def init_weights(self) -> None:
        """Load the weights that ``init_cfg`` names, checking every key.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it does not fit the backbone exactly.
        """
        source = pretrained_cfg(self.init_cfg)
        if source is None:
            super().init_weights()
            return
        load_convnext(
            self,
            source,
            self.stock_shapes,
            self.new_params,
            self.unused_keys,
        )
        self._is_init = True

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns of the layers, for layer-wise decay."""
        matcher: Any = timm_convnext.ConvNeXt.group_matcher
        patterns: dict[str, Any] = matcher(self, coarse)
        return patterns

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the features of the chosen stages.

        Args:
            inputs: Images, shape ``(N, 3, H, W)``.

        Returns:
            Per index ``i`` of ``out_indices`` a contiguous tensor of shape
            ``(N, C_i, H / (4 · 2^i), W / (4 · 2^i))``.
        """
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        x = self.stem(inputs)
        outputs = []
        for index, stage in enumerate(self.stages):
            x = stage.downsample(x)
            for block in stage.blocks:
                x = self._run_block(block, x)
            if index in self.out_indices:
                # mmcv's RoIAlign reads memory as if it were contiguous: on
                # timm's channels-last views it is silently wrong.
                norm = self.get_submodule(f'norm{index}')
                outputs.append(norm(x).contiguous())
        return tuple(outputs)

    def _run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False)
        return block(x)


def _check_out_indices(out_indices: Sequence[int]) -> tuple[int, ...]:
    indices = tuple(out_indices)
    if not indices or list(indices) != sorted(set(indices) & {0, 1, 2, 3}):
        raise ValueError(
            'ConvNeXt: `out_indices` are ascending stages out of '
            f'(0, 1, 2, 3), got {out_indices!r}.'
        )
    return indices


def _build_timm(
    arch: str | Mapping[str, Any], drop_path_rate: float
) -> timm_convnext.ConvNeXt:
    if not isinstance(arch, str):
        return timm_convnext.ConvNeXt(
            **{**arch, 'drop_path_rate': drop_path_rate, 'num_classes': 0}
        )
    known = timm.list_models('convnext*', module='convnext')
    if arch not in known:
        near = difflib.get_close_matches(arch, known, n=5, cutoff=0.0)
        raise ValueError(
            f"ConvNeXt: unknown arch '{arch}'. The nearest of timm's names "
            f'are {", ".join(near)}; all start with convnext_ or convnextv2_.'
        )
    return timm.create_model(
        arch, pretrained=False, num_classes=0, drop_path_rate=drop_path_rate
    )
