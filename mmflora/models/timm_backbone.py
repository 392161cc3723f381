"""Any backbone of timm by name, under timm's own keys."""

import copyreg
import difflib
from collections.abc import Sequence
from typing import Any

import timm
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

from mmflora.checkpoint.base_weights import pretrained_cfg
from mmflora.checkpoint.keys import matches_any
from mmflora.files.sources import read_state_dict
from mmflora.registry import MODELS


class TimmFeatures:
    """What a model of timm gains to serve as a backbone of OpenMMLab.

    It is mixed into the model's own class, so that no key gets a prefix.
    """

    out_indices: tuple[int, ...]
    init_cfg: Any
    unused_keys: tuple[str, ...]

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the chosen intermediate features.

        Args:
            inputs: Images, shape ``(N, 3, H, W)``.

        Returns:
            One tensor of shape ``(N, C_i, H_i, W_i)`` per index.
        """
        features = self.forward_intermediates(  # type: ignore[attr-defined]
            inputs, indices=list(self.out_indices), intermediates_only=True
        )
        # mmcv's RoIAlign needs contiguous memory, see ConvNeXt.
        return tuple(feature.contiguous() for feature in features)

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

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Rebuild the mixed class where the object is unpickled."""
        kind = type(self).__mro__[2]
        return _new_features, (kind,), self.__dict__


def _features_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Mix :class:`TimmFeatures` into a class of timm; keep its name."""
    return type(kind.__name__, (TimmFeatures, kind), {})


def _new_features(kind: type[nn.Module]) -> Any:
    return copyreg.__newobj__(_features_class(kind))  # type: ignore[attr-defined]


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
        out_indices: The intermediate features to return, as timm counts
            them: stages of a hierarchical network (a ResNet's stem is 0),
            blocks of a plain vision transformer (``(2, 5, 8, 11)`` of
            twelve).  Whatever comes after the last of them is dropped, the
            final norm too.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a file in
            timm's layout or ``timm://<tag>``.
        **kwargs: Arguments of the model (``img_size``, ``drop_path_rate``).

    Raises:
        ValueError: If the name is unknown or the model has no intermediate
            features.
    """
    known = timm.list_models()
    if model_name not in known:
        near = difflib.get_close_matches(model_name, known, n=5, cutoff=0.0)
        raise ValueError(
            f"TimmBackbone: timm has no model '{model_name}'. The nearest "
            f'names are {", ".join(near)}.'
        )
    model = timm.create_model(model_name, pretrained=False, **kwargs)
    if not hasattr(model, 'forward_intermediates'):
        raise ValueError(
            f"TimmBackbone: timm's '{model_name}' gives no intermediate "
            'features (it has no forward_intermediates).'
        )
    whole = set(model.state_dict())
    indices = tuple(out_indices)
    model.prune_intermediate_layers(list(indices), prune_norm=True)
    dropped = sorted(whole - set(model.state_dict()))
    model.__class__ = _features_class(type(model))
    model.out_indices = indices
    model.init_cfg = init_cfg
    model.unused_keys = tuple(key.replace('.', r'\.') for key in dropped)
    return model
