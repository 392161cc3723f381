"""Whether a merged model's weights are W + ΔW, up to one rounding."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmflora.adapters import AdaptedLayer, adapted_layers
from mmflora.adapters.quantized import dense

SAMPLES = 64


class Sample(NamedTuple):
    """The values of a weight that its adapter changes most.

    Attributes:
        positions: Where they stand in the flat weight.
        frozen: Their values without the adapter, in float64.
        adapted: With it.
        bounds: How far a merged weight may be off: what rounding does.
    """

    positions: Tensor
    frozen: Tensor
    adapted: Tensor
    bounds: Tensor

    def survives(self) -> bool:
        """Return whether rounding leaves anything of the adapter's change."""
        return bool(((self.adapted - self.frozen).abs() > self.bounds).any())


@torch.no_grad()
def sample_weights(
    model: nn.Module, dtype: torch.dtype | None
) -> dict[str, Sample]:
    """Note what the adapters of a model make of its weights and biases.

    Args:
        model: The adapted model.
        dtype: The type that the merged weights are rounded to, ``None`` for
            their own.

    Returns:
        By the name of the weight.
    """
    samples = {}
    for name, layer in adapted_layers(model).items():
        prefix = f'{name}.' if name else ''
        for own, frozen, adapted in _tensors(layer):
            if not adapted.is_meta:
                types = (frozen.dtype, dtype or frozen.dtype)
                samples[prefix + own] = _sample(
                    dense(frozen).to(adapted.dtype), adapted, types
                )
    return samples


def _tensors(layer: AdaptedLayer) -> list[tuple[str, Tensor, Tensor]]:
    """Return names, frozen and adapted values of what a merge replaces."""
    adapter: Any = layer.adapter
    weight, bias = layer.base_weight(), layer.base_bias()
    wide = torch.promote_types(weight.dtype, torch.float32)
    adapted = adapter.adapted_weight(dense(weight).to(wide))
    found: list[tuple[str, Tensor, Tensor]]
    found = [(layer.weight_name, weight, adapted)]
    if bias is not None:
        adapted = adapter.adapted_bias(bias.to(wide))
        found.append((layer.bias_name, bias, adapted))
    return found


def _sample(
    frozen: Tensor, adapted: Tensor, types: tuple[torch.dtype, ...]
) -> Sample:
    # Rounding to a type is off by half a unit in the last place, which is
    # eps / 2 of the value, or half of the smallest number near zero.  The sum
    # is made in float32, of operands that are roundings too: another four
    # of its units, relative to the larger operand.
    size = adapted.abs()
    bounds = 4 * torch.finfo(torch.float32).eps * (size + frozen.abs())
    for kind in types:
        limits = torch.finfo(kind)
        tiny = limits.tiny * limits.eps
        bounds += size * (limits.eps / 2) + tiny / 2
    change = ((adapted - frozen).abs() / bounds).flatten()
    positions = change.topk(min(SAMPLES, change.numel())).indices
    return Sample(
        positions,
        *(
            values.flatten()[positions].double()
            for values in (frozen, adapted, bounds)
        ),
    )


def check_weights(
    samples: Mapping[str, Sample], state: Mapping[str, Tensor]
) -> list[str]:
    """Check that merged weights hold what the adapters made of them.

    The error of a weight whose adapter was dropped, or added with the wrong
    sign, is larger than rounding, unless rounding removes the whole change.

    Args:
        samples: What :func:`sample_weights` found before the merge.
        state: The merged state dict.

    Returns:
        The weights in which rounding leaves nothing of an adapter's change.

    Raises:
        ValueError: If a weight is off by more than rounding.
    """
    lost = []
    for name, sample in samples.items():
        merged = state[name].flatten()[sample.positions].double()
        off = (merged - sample.adapted).abs()
        if not (off <= sample.bounds).all():
            worst = int((off / sample.bounds).argmax())
            raise ValueError(
                f"The merged weight '{name}' differs from the adapted one by "
                f'{float(off[worst]):.2e}, where rounding to '
                f'{str(state[name].dtype).removeprefix("torch.")} allows '
                f'{float(sample.bounds[worst]):.2e}: its adapter is not in '
                'it. The file was not kept.'
            )
        changed = (sample.adapted != sample.frozen).any()
        if changed and not sample.survives():
            lost.append(name)
    return lost
