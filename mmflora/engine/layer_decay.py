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
    known = {n for n in parts if hasattr(parts[n][0], 'group_matcher')}
    for name, (backbone, _) in parts.items():
        own: Any = backbone
        if name not in known and not _is_backbone(name) and known:
            continue  # an encoder or a head, which has no falling rates
        if name not in known:
            raise ValueError(
                f"`layer_decay`: the backbone '{name}' of type "
                f'{type(backbone).__name__} has no group_matcher(), by which '
                'timm groups parameters into layers. Leave `layer_decay` out, '
                'or take a backbone of mmflora or of timm '
                "(type='mmflora.TimmBackbone')."
            )
        matcher = own.group_matcher(coarse=False)
        layers = group_parameters(backbone, matcher, reverse=True)
        last = max(layers.values(), default=0)
        for key, parameter in backbone.named_parameters():
            scales[parameter] = decay ** (last - layers.get(key, last))
    return scales


def _is_backbone(name: str) -> bool:
    return name.split('.')[-1] in ('', 'backbone')
