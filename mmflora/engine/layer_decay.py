"""Learning rates that fall towards a backbone's input, in timm's grouping."""

from numbers import Real
from typing import Any

from timm.models import group_parameters
from torch import nn

from mmflora.checkpoint.record import base_records


def layer_scales(model: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Map the parameters of each backbone to decay^(layers above them).

    Bao et al., "BEiT" (2022), appendix; the layers are those that timm's
    ``group_matcher`` of the backbone names.  Adapters belong to the layer
    that they adapt; what stands in no group (output norms) to the last.

    Args:
        model: The whole model, not wrapped.
        decay: The factor from one layer to the one below, in (0, 1].

    Raises:
        TypeError: If ``decay`` is no number.
        ValueError: If it is out of range, or a backbone says nothing
            of its layers.
    """
    if isinstance(decay, bool) or not isinstance(decay, Real):
        raise TypeError(
            '`paramwise_cfg`: `layer_decay` is a factor in (0, 1], got '
            f'layer_decay={decay!r}.'
        )
    if not 0.0 < decay <= 1.0:
        raise ValueError(
            f'`layer_decay` is a factor in (0, 1], got {decay!r}. Leave it '
            'out, or set 1.0, for equal learning rates.'
        )
    scales: dict[nn.Parameter, float] = {}
    parts = base_records(model)
    matchers = {n: _matcher(part, n) for n, (part, _) in parts.items()}
    for name, (backbone, _) in parts.items():
        matcher = matchers[name]
        if (
            matcher is None
            and not _is_backbone(name)
            and any(matchers.values())
        ):
            continue  # an encoder or a head, which has no falling rates
        if matcher is None:
            raise ValueError(
                f"`layer_decay`: the backbone '{name}' of type "
                f'{type(backbone).__name__} has no group_matcher(), by which '
                'timm groups parameters into layers, nor `layers` as plain '
                'transformers of OpenMMLab have them. Leave `layer_decay` '
                'out, or take a backbone of mmflora or of timm '
                "(type='mmflora.TimmBackbone')."
            )
        layers = group_parameters(backbone, matcher, reverse=True)
        last = max(layers.values(), default=0)
        for key, parameter in backbone.named_parameters():
            scales[parameter] = decay ** (last - layers.get(key, last))
    return scales


def _is_backbone(name: str) -> bool:
    return name.split('.')[-1] in ('', 'backbone')


def _matcher(part: Any, name: str) -> Any:
    """Return how a part's parameters are grouped into layers, if known."""
    if hasattr(part, 'group_matcher'):
        return part.group_matcher(coarse=False)
    layers = getattr(part, 'layers', None)
    if _is_backbone(name) and isinstance(layers, nn.ModuleList):
        # mmseg's VisionTransformer, BEiT and MAE, as mmseg itself groups them.
        return dict(
            stem=r'^(cls_token|mask_token|pos_embed|patch_embed)',
            blocks=[(r'^layers\.(\d+)', None), (r'^ln1', (99999,))],
        )
    return None
