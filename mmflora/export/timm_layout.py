"""A backbone's weights in timm's layout, as ``timm.create_model`` loads it."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import timm
import torch
from torch import Tensor, nn

from mmflora.checkpoint.keys import compare_keys, float_shapes, state_shapes
from mmflora.models.plain.timm_intermediates import (
    any_size,
    build_timm_intermediates,
)

# Parts of timm's models behind their last stage or block.
_LAST_NORM = (r'(head\.norm|norm|fc_norm)\.(weight|bias)',)
# mmflora's norms of the outputs, which timm's models lack.
_OUTPUT_NORMS = (r'norm[0-3]\.(weight|bias)',)


def timm_arguments(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``timm.create_model`` needs to build a plain backbone.

    Args:
        backbone: The plain config of a backbone on timm's models.

    Raises:
        ValueError: If it is none, or its architecture has no name in timm.
    """
    if backbone['type'] == 'TimmIntermediates':
        if backbone.get('attention_window') is not None:
            raise ValueError(
                '--layout timm: the attention of this backbone is restricted '
                "to windows, which timm's model does not do: it would load "
                'the weights and compute something else. Use --layout stock.'
            )
        own = inspect.signature(build_timm_intermediates).parameters
        left = {'type', '_scope_', *own} - {'model_name'}
        arguments = {k: v for k, v in backbone.items() if k not in left}
        arguments = any_size(backbone['model_name'], arguments)
        return {**arguments, 'num_classes': 0}
    if backbone['type'] == 'PlainInternViT':
        raise ValueError(
            '--layout timm: InternViT norms queries and keys over its full '
            'width before it splits the heads, which no model of timm does; '
            "timm's would load the weights and compute something else. Use "
            "--layout stock: its keys are timm's, for PlainInternViT of "
            'merged_intern_vit.py, which goes with --out-config.'
        )
    arch = backbone.get('arch')
    if backbone['type'] != 'TimmConvNeXt' or not isinstance(arch, str):
        raise ValueError(
            f'--layout timm: the backbone is {backbone["type"]}'
            f'{"" if arch is None else f" with arch={arch!r}"}, which timm '
            'does not know by name. Allowed are mmflora.ConvNeXt and its '
            'adapted forms with a named arch, and mmflora.TimmBackbone; for '
            'others use --layout stock.'
        )
    return dict(model_name=arch, num_classes=0)


def timm_state(
    state: Mapping[str, Tensor], model: nn.Module
) -> dict[str, Tensor]:
    """Return weights that a model of timm loads strictly.

    Norms of the outputs, which dense prediction adds to the stages, are left
    out; timm's own norm before the classifier, which a dense backbone lacks,
    gets its start value, one and zero.

    Args:
        state: The plain backbone's weights.
        model: timm's model without classifier.

    Raises:
        ValueError: If a block of timm's model is not in the backbone.
    """
    whole = model.state_dict()
    report = compare_keys(
        float_shapes(state), state_shapes(model), _LAST_NORM, _OUTPUT_NORMS
    )
    if report:
        raise ValueError(
            f"--layout timm: the backbone is not the whole of timm's "
            f'model:\n{report}\nA backbone drops the stages behind the last '
            'of its `out_indices`: use --layout stock, whose config says so.'
        )
    return {key: state.get(key, whole[key]) for key in whole}


@torch.no_grad()
def stage_features(backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return a backbone's features as timm's model has them.

    They are those before the norms of the outputs, where it has such, and
    before a final norm.

    Args:
        backbone: An adapted or plain ConvNeXt or model of timm.
        images: Shape ``(N, 3, H, W)``.
    """
    backbone.eval()
    found: dict[str, Tensor] = {}
    indices: tuple[int, ...] = backbone.out_indices  # type: ignore[assignment]
    with ExitStack() as hooks:
        if getattr(backbone, 'final_norm', None):
            hooks.enter_context(_set(backbone, 'final_norm', None))
        for index in indices:
            norm = backbone._modules.get(f'norm{index}')
            if norm is not None:

                def keep(_: Any, inputs: Any, index: int = index) -> None:
                    found[f'stage_{index}'] = inputs[0].clone()

                handle = norm.register_forward_pre_hook(keep)
                hooks.callback(handle.remove)
        outputs = backbone(images)
    if found:
        return found
    return {
        f'stage_{index}': output
        for index, output in zip(indices, outputs, strict=True)
    }


@contextmanager
def _set(module: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute, for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@torch.no_grad()
def timm_features(
    model: nn.Module, indices: tuple[int, ...], images: Tensor
) -> dict[str, Tensor]:
    """Return the same features of timm's own model.

    Args:
        model: The model.
        indices: Which features, as timm counts them.
        images: Shape ``(N, 3, H, W)``.
    """
    kind: Any = model.eval()
    features = kind.forward_intermediates(
        images, indices=list(indices), intermediates_only=True
    )
    return {
        f'stage_{index}': feature
        for index, feature in zip(indices, features, strict=True)
    }


def build_timm(arguments: Mapping[str, Any], path: str = '') -> nn.Module:
    """Build timm's model, with the weights of a file.

    Args:
        arguments: See :func:`timm_arguments`.
        path: The file, loaded strictly; ``''`` for none.
    """
    model: nn.Module = timm.create_model(**arguments, checkpoint_path=path)
    return model
