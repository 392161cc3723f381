"""Any backbone of timm by name, under timm's own keys."""

import re
from collections.abc import Sequence
from typing import Any

from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmflora.checkpoint.base_weights import pretrained_cfg
from mmflora.checkpoint.keys import matches_any
from mmflora.files.sources import read_state_dict
from mmflora.registry import MODELS

from .plain.timm_features import Intermediates, build_timm_intermediates


class TimmFeatures(Intermediates):
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
        state = read_state_dict(source['checkpoint'], source.get('prefix'))
        used = {
            key: value
            for key, value in state.items()
            if not matches_any(self.unused_keys, key)
        }
        load_state_dict(self, used, strict=False, logger='current')


@MODELS.register_module(name='TimmBackbone')
def build_timm_backbone(
    model_name: str,
    out_indices: Sequence[int],
    init_cfg: Any = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a model of timm as a backbone, under timm's own keys.

    Args:
        model_name: A name out of ``timm.list_models()``.
        out_indices: The intermediate features to return, see
            :func:`~.plain.timm_features.build_timm_intermediates`.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a file in
            timm's layout or ``timm://<tag>``.
        **kwargs: Arguments of the model (``img_size``, ``drop_path_rate``).

    Raises:
        ValueError: If the name is unknown or the model has no intermediate
            features.
    """
    model: Any = build_timm_intermediates(
        model_name, out_indices, init_cfg, TimmFeatures, **kwargs
    )
    model.unused_keys = tuple(map(re.escape, model.dropped_keys))
    return model
