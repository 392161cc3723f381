"""Backbones on timm's models for OpenMMLab, without any other package.

A copy of this file belongs beside a config that names ``TimmConvNeXt`` or
``TimmIntermediates``; the config loads it from its own folder.  It needs
torch, timm and mmengine alone, so that a merged model runs wherever
OpenMMLab does.  Parameters have timm's own keys.

ConvNeXt is of Liu et al., "A ConvNet for the 2020s" (2022), and Woo et al.,
"ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders"
(2023).
"""

import copyreg
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
            _check_name('ConvNeXt', arch, known)
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


class Intermediates:
    """What a model of timm gains to return intermediate features.

    It is mixed into the model's own class, so that no key gets a prefix.
    """

    out_indices: tuple[int, ...]
    dropped_keys: tuple[str, ...]
    init_cfg: Any

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return one contiguous ``(N, C_i, H_i, W_i)`` per index.

        Args:
            inputs: Images, shape ``(N, 3, H, W)``.
        """
        features = self.forward_intermediates(  # type: ignore[attr-defined]
            inputs, indices=list(self.out_indices), intermediates_only=True
        )
        return tuple(feature.contiguous() for feature in features)

    def init_weights(self, *_: Any, **__: Any) -> None:
        """Keep the weights: a checkpoint brings them."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Rebuild the mixed class where the object is unpickled."""
        return _new, type(self).__bases__, self.__dict__


def _mixed(mixin: type, kind: type) -> type:
    """Mix a class into one of timm, whose name it keeps."""
    return type(kind.__name__, (mixin, kind), {})


def _new(mixin: type, kind: type) -> Any:
    return copyreg.__newobj__(  # type: ignore[attr-defined]
        _mixed(mixin, kind)
    )


@MODELS.register_module(name='TimmIntermediates', force=True)
def build_timm_intermediates(
    model_name: str,
    out_indices: Sequence[int],
    init_cfg: Any = None,
    mixin: type = Intermediates,
    **kwargs: Any,
) -> nn.Module:
    """Build a model of timm that returns intermediate features.

    Args:
        model_name: A name out of ``timm.list_models()``.
        out_indices: The intermediate features to return, as timm counts
            them: stages of a hierarchical network (a ResNet's stem is 0),
            blocks of a plain vision transformer (``(2, 5, 8, 11)`` of
            twelve).  Whatever comes after the last of them is dropped, the
            final norm too.
        init_cfg: Kept for OpenMMLab.
        mixin: What the model's class gains.
        **kwargs: Arguments of the model (``img_size``, ``drop_path_rate``).

    Raises:
        ValueError: If the name is unknown or the model has no intermediate
            features.
    """
    _check_name('TimmBackbone', model_name, timm.list_models())
    model = timm.create_model(model_name, pretrained=False, **kwargs)
    if not hasattr(model, 'forward_intermediates'):
        raise ValueError(
            f"TimmBackbone: timm's '{model_name}' gives no intermediate "
            'features (it has no forward_intermediates).'
        )
    whole = set(model.state_dict())
    model.prune_intermediate_layers(list(out_indices), prune_norm=True)
    model.dropped_keys = tuple(sorted(whole - set(model.state_dict())))
    model.__class__ = _mixed(mixin, type(model))
    model.out_indices = tuple(out_indices)
    model.init_cfg = init_cfg
    return model


def _check_name(kind: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.0)
        raise ValueError(
            f"{kind}: timm has no model '{name}' of this kind. The nearest "
            f'names are {", ".join(near)}.'
        )
