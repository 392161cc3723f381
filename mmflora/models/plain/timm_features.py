"""ConvNeXt on timm's blocks for OpenMMLab, without any other package.

A copy of this file belongs beside a config that names ``TimmConvNeXt``; the
config loads it from its own folder.  It needs torch, timm and mmengine alone,
so that a merged model runs wherever OpenMMLab does.  Parameters have timm's
own keys.

ConvNeXt is of Liu et al., "A ConvNet for the 2020s" (2022), and Woo et al.,
"ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders"
(2023).
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from timm.layers import LayerNorm2d
from timm.models import convnext as timm_convnext
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

DEFAULT_ARCH = 'convnextv2_large'


# Several configs may each have a copy of this file.
@MODELS.register_module(force=True)
class TimmConvNeXt(BaseModule):
    """ConvNeXt or ConvNeXt-V2 with a norm per output, for dense prediction.

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
        init_cfg: As for any module of MMEngine.

    Raises:
        ValueError: If ``arch`` is unknown or ``out_indices`` are not
            ascending stages.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = DEFAULT_ARCH,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        channels_last: bool = False,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        indices = tuple(out_indices)
        if not indices or list(indices) != sorted(set(indices) & {0, 1, 2, 3}):
            raise ValueError(
                'ConvNeXt: `out_indices` are ascending stages out of '
                f'(0, 1, 2, 3), got {out_indices!r}.'
            )
        self.arch = arch
        self.out_indices = indices
        self.with_cp = with_cp
        self.channels_last = channels_last
        settings: dict[str, Any] = dict(
            num_classes=0, drop_path_rate=drop_path_rate
        )
        if isinstance(arch, str):
            known = timm.list_models('convnext*', module='convnext')
            check_name('ConvNeXt', arch, known)
            net = timm.create_model(arch, pretrained=False, **settings)
        else:
            net = timm_convnext.ConvNeXt(**{**arch, **settings})
        self.stem = net.stem
        self.stages = net.stages[: indices[-1] + 1]
        self.out_channels = tuple(
            net.feature_info[index]['num_chs'] for index in indices
        )
        for index, width in zip(indices, self.out_channels, strict=True):
            self.add_module(f'norm{index}', LayerNorm2d(width))
        if channels_last:
            self.to(memory_format=torch.channels_last)

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
                # timm's blocks return permuted views, on which operators
                # such as mmcv's RoIAlign are silently wrong.
                norm = self.get_submodule(f'norm{index}')
                outputs.append(norm(x).contiguous())
        return tuple(outputs)

    def _run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        # Not re-entrant, which would give layers behind a frozen stem no
        # gradient.
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False)
        return block(x)


def check_name(kind: str, name: str, known: Sequence[str]) -> None:
    """Refuse a name that timm does not know.

    Raises:
        ValueError: If it is none of those known; the nearest are listed.
    """
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.0)
        raise ValueError(
            f"{kind}: timm has no model '{name}' of this kind. The nearest "
            f'names are {", ".join(near)}.'
        )
