"""Any backbone of timm by name, under timm's own keys."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

from mmflora.checkpoint.base_weights import load_converted, pretrained_cfg
from mmflora.checkpoint.block_by_block import load_block_by_block
from mmflora.checkpoint.fit import Fit
from mmflora.checkpoint.keys import Shapes, state_shapes
from mmflora.checkpoint.layouts import unused_keys
from mmflora.checkpoint.layouts.timm_keys import as_timm_reads, to_timm
from mmflora.files.sources import read_state_dict
from mmflora.registry import MODELS

from .plain.timm_intermediates import Intermediates, build_timm_intermediates


class TimmFeatures(Intermediates, nn.Module):
    """What a model of timm gains to serve as a backbone of OpenMMLab."""

    unused_keys: tuple[str, ...]

    def init_weights(self, *_: Any, **__: Any) -> None:
        """Load the weights that ``init_cfg`` names; else keep timm's start.

        Keys that do not fit are logged, as by any backbone of OpenMMLab;
        with adapters they are an error.

        Raises:
            FileNotFoundError: If the file is missing.
        """
        source = pretrained_cfg(self.init_cfg)
        if source is None:
            return
        stored = read_state_dict(source['checkpoint'], source.get('prefix'))
        unused = (*self.unused_keys, *unused_keys(self))
        named = self._to_timm(as_timm_reads(self, stored))
        fitted = Fit(state_shapes(self), (), unused)(named)
        load_state_dict(self, fitted, strict=False, logger='current')

    def load_published(
        self,
        init_cfg: Mapping[str, Any],
        shapes: Shapes,
        optional: Iterable[str],
        unused: Iterable[str],
    ) -> None:
        """Load weights of any layout, see :func:`load_base`."""
        if self.kept_in is not None:
            load_block_by_block(
                self, init_cfg, self._convert, shapes, optional, unused
            )
            return
        load_converted(
            self,
            init_cfg,
            self._to_timm,
            shapes,
            optional,
            unused,
            partial(as_timm_reads, self),
        )

    def _convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._to_timm(as_timm_reads(self, state))

    def _to_timm(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return to_timm(self, state, self.dropped_keys)


@MODELS.register_module(name='TimmBackbone')
def build_timm_backbone(
    model_name: str,
    out_indices: Sequence[int],
    init_cfg: Any = None,
    with_cp: bool = False,
    dtype: str | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a model of timm as a backbone, under timm's own keys.

    Args:
        model_name: A name out of ``timm.list_models()``.
        out_indices: The intermediate features to return.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a file in
            timm's layout or ``timm://<tag>``.
        with_cp: Recompute each block in the backward pass.
        dtype: ``'bfloat16'`` or ``'float16'`` for the parameters; features
            are float32.  The weights that ``init_cfg`` names are then read
            block by block into memory that nothing was written to before.
        **kwargs: ``final_norm``, ``attention_window`` and ``global_blocks``,
            see :func:`~.plain.timm_intermediates.build_timm_intermediates`;
            arguments of the model (``img_size``, ``drop_path_rate``).

    Raises:
        ValueError: If the name is unknown, the model has no intermediate
            features, or cannot do what an option asks for.

    Example:
        >>> backbone = dict(
        ...     type='mmflora.TimmBackbone',
        ...     model_name='vit_large_patch16_dinov3',
        ...     out_indices=[23],
        ...     final_norm='last',
        ...     init_cfg=dict(
        ...         type='Pretrained',
        ...         checkpoint='timm://vit_large_patch16_dinov3.lvd1689m',
        ...     ),
        ... )
    """
    if dtype not in (None, 'bfloat16', 'float16'):
        raise ValueError(
            "TimmBackbone: `dtype` is 'bfloat16', 'float16' or None, got "
            f'{dtype!r}.'
        )
    options = dict(kwargs, with_cp=with_cp, dtype=dtype)
    device = torch.get_default_device()
    blank = dtype is not None and pretrained_cfg(init_cfg)
    with torch.device('meta' if blank else device):
        model: Any = build_timm_intermediates(
            model_name, out_indices, init_cfg, TimmFeatures, **options
        )
    if blank:
        _allocate(model, device)
    model.unused_keys = tuple(map(re.escape, model.dropped_keys))
    return model


def _allocate(model: nn.Module, device: torch.device) -> None:
    """Give a model that was built without memory blank parameters.

    What it computes itself, such as the periods of rotary embeddings, is
    computed again, as timm does.
    """
    model.to_empty(device=device)
    for module in model.modules():
        fill: Any = getattr(module, 'init_non_persistent_buffers', None)
        if fill is not None:
            fill()
