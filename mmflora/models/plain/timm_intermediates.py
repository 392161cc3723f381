"""Any model of timm as a backbone of OpenMMLab, without any other package.

A copy of this file belongs beside a config that names ``TimmIntermediates``,
with those of ``timm_features.py`` and ``window_attention.py``; the config
loads them from its own folder.  They need torch, timm and mmengine alone, so
that a merged model runs wherever OpenMMLab does.  Parameters have timm's own
keys.
"""

import copyreg
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .timm_features import check_name
from .window_attention import Windows

# Modules of timm whose transformers can take images of any size.
_ANY_SIZE = ('vision_transformer', 'eva', 'deit')


class Intermediates:
    """What a model of timm gains to return intermediate features.

    It is mixed into the model's own class, so that no key gets a prefix.
    """

    out_indices: tuple[int, ...]
    dropped_keys: tuple[str, ...]
    init_cfg: Any
    # What follows is for plain transformers, whose patches have one stride.
    patch: tuple[int, int] | None = None
    final_norm: str | None = None
    windowed = False
    # The type of the parameters, if another than PyTorch's default.
    kept_in: torch.dtype | None = None

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return one contiguous ``(N, C_i, H_i, W_i)`` per index.

        Args:
            inputs: Images, shape ``(N, 3, H, W)``.  For a plain transformer,
                zeros are added below and to the right up to whole patches.

        Raises:
            ValueError: If the model takes images of one other size alone.
        """
        model: Any = self
        _check_size(model, inputs)
        if self.patch is not None:
            rows, columns = (
                -size % side
                for size, side in zip(
                    inputs.shape[-2:], self.patch, strict=True
                )
            )
            inputs = F.pad(inputs, (0, columns, 0, rows))
        if self.kept_in is not None:
            inputs = inputs.to(self.kept_in)
        if self.windowed:
            features = _run_windowed(model, inputs)
        else:
            features = model.forward_intermediates(
                inputs, indices=list(self.out_indices), intermediates_only=True
            )
        for i, feature in enumerate(features):
            if self.final_norm == 'all' or (
                self.final_norm == 'last' and i == len(features) - 1
            ):
                normed = model.norm(feature.permute(0, 2, 3, 1))
                features[i] = normed.permute(0, 3, 1, 2)
        if self.kept_in is not None:
            features = [feature.float() for feature in features]
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


def _run_windowed(model: Any, inputs: Tensor) -> list[Tensor]:
    """Do what timm's ``forward_intermediates`` does, with known windows."""
    grid = model.patch_embed.dynamic_feat_size(inputs.shape[-2:])
    x = model._pos_embed(model.patch_embed(inputs))
    rope: Any = None
    if isinstance(x, tuple):
        x, rope = x
    x = model.norm_pre(x)
    features = []
    for index, block in enumerate(model.blocks):
        own = rope[index] if getattr(model, 'rope_mixed', False) else rope
        if model.grad_checkpointing:
            x = checkpoint(_run, block, x, own, grid, use_reentrant=False)
        else:
            x = _run(block, x, own, grid)
        if index in model.out_indices:
            image = x[:, model.num_prefix_tokens :].transpose(1, 2)
            features.append(image.unflatten(2, grid))
    return features


def _run(block: Any, x: Tensor, rope: Any, grid: tuple[int, int]) -> Tensor:
    """Run a block; a later pass may have had another grid."""
    if hasattr(block.attn, 'windows'):
        block.attn.windows.grid = grid
    return block(x) if rope is None else block(x, rope=rope)


@MODELS.register_module(name='TimmIntermediates', force=True)
def build_timm_intermediates(
    model_name: str,
    out_indices: Sequence[int],
    init_cfg: Any = None,
    mixin: type = Intermediates,
    final_norm: str | None = None,
    with_cp: bool = False,
    attention_window: int | None = None,
    global_blocks: Sequence[int] = (),
    dtype: str | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a model of timm that returns intermediate features.

    A plain vision transformer takes images of any size: its position
    embeddings are interpolated, and images are padded to whole patches.  Class
    and register tokens are not part of its maps.

    Args:
        model_name: A name out of ``timm.list_models()``.
        out_indices: The intermediate features to return, ascending, as timm
            counts them: stages of a hierarchical network (a ResNet's stem is
            0), blocks of a plain vision transformer (``(2, 5, 8, 11)`` of
            twelve).  Whatever comes after the last of them is dropped.
        init_cfg: Kept for OpenMMLab.
        mixin: What the model's class gains.
        final_norm: Of a plain vision transformer: ``'last'`` applies its
            final norm to the last of the outputs, as most do who take the
            last block's; ``'all'`` to each, as DINOv2 and DINOv3 do;
            ``None``: to none, as ViTDet, and the norm is dropped.
        with_cp: Recompute each block in the backward pass instead of keeping
            its activations; not re-entrant.
        attention_window: Patches along each side of the windows to which the
            attention of a plain vision transformer is restricted, but for
            ``global_blocks``; ``None``: everywhere global.  ViTDet's are 14.
        global_blocks: The blocks with global attention; ViTDet has four, the
            last of each quarter.
        dtype: ``'bfloat16'`` or ``'float16'`` for the parameters; features
            are float32.  ``None``: PyTorch's default.
        **kwargs: Arguments of the model (``img_size``, ``drop_path_rate``,
            ``dynamic_img_size=False`` for images of ``img_size`` alone).

    Raises:
        ValueError: If the name is unknown, the model has no intermediate
            features, or cannot do what an option asks for.
    """
    check_name('TimmBackbone', model_name, timm.list_models())
    kwargs = any_size(model_name, kwargs)
    model = timm.create_model(model_name, pretrained=False, **kwargs)
    told = f"TimmBackbone: timm's '{model_name}'"
    if not hasattr(model, 'forward_intermediates'):
        raise ValueError(
            f'{told} gives no intermediate features (it has no '
            'forward_intermediates).'
        )
    whole = set(model.state_dict())
    patch = _patch(model, told)
    indices = _pruned(model, out_indices, final_norm is None, told)
    if with_cp:
        _recompute(model, told)
    if final_norm is not None:
        _check_norm(model, final_norm, told)
    if attention_window is not None:
        _restrict(model, attention_window, global_blocks, told)
    model.dropped_keys = tuple(sorted(whole - set(model.state_dict())))
    model.__class__ = _mixed(mixin, type(model))
    model.patch, model.final_norm = patch, final_norm
    model.windowed = attention_window is not None
    if dtype is not None:
        model.kept_in = getattr(torch, dtype)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(model.kept_in)
    model.out_indices = indices
    model.init_cfg = init_cfg
    return model


def any_size(model_name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Let a model of timm take images of any size, where it can."""
    module = timm.model_entrypoint(model_name).__module__
    if module.rpartition('.')[2] not in _ANY_SIZE:
        return dict(arguments)
    return dict(dynamic_img_size=True, dynamic_img_pad=True) | dict(arguments)


def _patch(model: Any, told: str) -> tuple[int, int] | None:
    """Return the patch of a plain transformer, of one stride throughout.

    Raises:
        ValueError: If it does not divide the size of the images.
    """
    embed: Any = getattr(model, 'patch_embed', None)
    strides = {info['reduction'] for info in model.feature_info}
    if len(strides) > 1 or not hasattr(embed, 'feat_ratio'):
        return None
    rows, columns = embed.feat_ratio(as_scalar=False)
    size = getattr(embed, 'img_size', None)
    if size and (size[0] % rows or size[1] % columns):
        raise ValueError(
            f'{told} has patches of {rows} × {columns}, which do not divide '
            f'img_size={tuple(size)}. Give multiples of them; images of other '
            'sizes are padded.'
        )
    return rows, columns


def _pruned(
    model: Any, out_indices: Sequence[int], drop_norm: bool, told: str
) -> tuple[int, ...]:
    """Drop what no output needs; return which outputs are taken."""
    given = list(out_indices)
    try:
        # Negative ones count from the end.
        taken = model.prune_intermediate_layers(given, prune_norm=drop_norm)
    except (AssertionError, IndexError, ValueError):
        taken = ()
    if not taken or list(taken) != sorted(set(taken)):
        raise ValueError(
            f'{told}: `out_indices` are ascending out of its intermediate '
            f'features 0 … {len(model.feature_info) - 1}, got {given}.'
        )
    return tuple(taken)


def _recompute(model: Any, told: str) -> None:
    try:
        model.set_grad_checkpointing(True)
    except (AssertionError, AttributeError) as error:
        raise ValueError(
            f'{told} has no activation checkpointing. Set with_cp=False.'
        ) from error


def _check_norm(model: Any, final_norm: str, told: str) -> None:
    if final_norm not in ('last', 'all'):
        raise ValueError(
            "TimmBackbone: `final_norm` is None, 'last' or 'all', got "
            f'{final_norm!r}.'
        )
    norm = getattr(model, 'norm', None)
    if not hasattr(model, 'num_prefix_tokens') or isinstance(
        norm, nn.Identity | None
    ):
        raise ValueError(
            f'{told} has no norm after its last block. Leave `final_norm` out.'
        )


def _restrict(
    model: Any, side: int, global_blocks: Sequence[int], told: str
) -> None:
    """Restrict attention to windows in all blocks but the global ones."""
    blocks = getattr(model, 'blocks', ())
    if not hasattr(model, '_pos_embed') or not all(
        hasattr(block, 'attn') for block in blocks
    ):
        raise ValueError(
            f"{told} is no plain transformer of timm's VisionTransformer or "
            'Eva, whose attention can be restricted. Leave '
            '`attention_window` out (SAM has windows of its own).'
        )
    if side < 1 or not set(global_blocks) <= set(range(len(blocks))):
        raise ValueError(
            f'{told}: `attention_window` is a number of patches and '
            f'`global_blocks` are out of the blocks 0 … {len(blocks) - 1}, '
            f'got {side} and {list(global_blocks)}.'
        )
    for index, block in enumerate(blocks):
        if index not in global_blocks:
            windows = Windows(side, model.num_prefix_tokens)
            block.attn.windows = windows
            block.attn.register_forward_pre_hook(
                windows.enter, with_kwargs=True
            )
            block.attn.register_forward_hook(windows.leave)


def _check_size(model: Any, inputs: Tensor) -> None:
    """Refuse images of a size that a model is not built for.

    Raises:
        ValueError: If it is built for one size alone.
    """
    embed: Any = getattr(model, 'patch_embed', None)
    size = getattr(embed, 'img_size', None)
    given = tuple(inputs.shape[-2:])
    if not getattr(embed, 'strict_img_size', False) or size is None:
        return
    if given != tuple(size):
        kind = type(model).__name__
        remedy = (
            'strict_img_size=False'
            if 'Swin' in kind
            else ('dynamic_img_size=True, if the model has this option')
        )
        raise ValueError(
            f'TimmBackbone: {kind} is built for images of {tuple(size)} '
            f'alone, got {given}. Add {remedy}; or give the size of all '
            'images as img_size=(height, width) and bring them to it in the '
            'pipeline.'
        )
