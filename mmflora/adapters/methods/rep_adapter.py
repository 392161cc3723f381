"""RepAdapter: a linear adapter before a layer, merged into its weight."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import Adapter, CannotAdapt
from ..layer_weights import bias_name, frozen_weight, transposed_groups
from ..layers import OperatorLayer
from ..precision import full_precision
from ..quantized import dense
from ..settings import check_count, check_factor


@ADAPTERS.register_module()
class RepAdapter(Adapter):
    r"""A layer reads x + s (B (A x + a) + b): a linear adapter before it.

    Luo et al., "Towards Efficient Visual Adaption via Structural
    Re-parameterization" (2023).  A is dense, B is block-diagonal with
    ``groups`` blocks (the paper's group-wise, sparse transformation).  The
    adapter is linear, so that it merges exactly into the layer that follows:

        W ← W + s W B A        bias ← bias + s W (B a + b)

    B, a and b start at zero.  The paper adapts the inputs of attention and of
    the MLP, ``targets=r'.*\.(qkv|fc1)'``; any layer with channels can be
    adapted.  Its adapter before ConvNeXt's depthwise convolution has no merged
    form, as that one mixes no channels; grouped layers are left out.  Without
    a bias in the layer, or where zeros are padded behind the adapter, a and b
    are left out.

    Args:
        weight: The frozen weight.
        rank: The hidden width.
        groups: How many blocks B has.
        scale: The paper's s.
        transposed: Whether the input channels come first.
        with_bias: Whether there are a and b.

    Example:
        >>> adapter = dict(type='RepAdapter', rank=8)
        >>> targets = r'.*\.(qkv|fc1)'
    """

    paper = 'Luo et al., 2023, arXiv:2302.08106'
    additive = False
    from_layer: ClassVar[tuple[str, ...]] = ('transposed', 'with_bias')

    def __init__(
        self,
        weight: Tensor,
        rank: int = 8,
        groups: int = 2,
        scale: float = 1.0,
        transposed: bool = False,
        with_bias: bool = True,
    ) -> None:
        super().__init__(weight)
        rank = check_count('RepAdapter', 'rank', rank)
        self.groups = check_count('RepAdapter', 'groups', groups)
        self.scale = check_factor('RepAdapter', 'scale', scale)
        if rank % groups:
            raise ValueError(
                f'RepAdapter: rank={rank} cannot be split into '
                f'groups={groups}. Choose a multiple.'
            )
        self.transposed = transposed
        channels = weight.shape[0 if transposed else 1]
        if channels % groups:
            raise CannotAdapt(
                f'its {channels} input channels cannot be split into '
                f'{groups} groups'
            )
        self.down = self.parameter_like(weight, rank, channels)
        self.up = self.parameter_like(weight, channels, rank // groups)
        self.down_bias: Tensor | None = None
        self.up_bias: Tensor | None = None
        if with_bias:
            self.down_bias = self.parameter_like(weight, rank)
            self.up_bias = self.parameter_like(weight, channels)
        self.reset_parameters()

    @classmethod
    def for_layer(cls, layer: nn.Module, **options: Any) -> 'RepAdapter':
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
            raise CannotAdapt('its input has no channels')
        if getattr(layer, 'groups', 1) != 1:
            raise CannotAdapt('its groups would not see all channels')
        adapter = cls(
            frozen_weight(layer),
            transposed=bool(transposed_groups(layer)),
            with_bias=_shifts_alike(layer),
            **options,
        )
        vars(adapter)['layer'] = layer  # beside the modules, not among them
        return adapter

    def reset_parameters(self) -> None:
        """Start as zero: B and the biases are."""
        nn.init.xavier_uniform_(self.down)
        nn.init.zeros_(self.up)
        if self.down_bias is not None and self.up_bias is not None:
            nn.init.zeros_(self.down_bias)
            nn.init.zeros_(self.up_bias)

    def dense_up(self) -> Tensor:
        """Return B, shape ``(C, rank)``."""
        return torch.block_diag(*self.up.chunk(self.groups))

    def delta_weight(self) -> Tensor:
        """Return zero: nothing is added before the weight is multiplied."""
        return self.up.new_zeros(self.weight_shape)

    def adapted_weight(self, weight: Tensor) -> Tensor:
        """Return W + s W B A, in the type of ``weight``."""
        dim = 0 if self.transposed else 1
        with full_precision(weight.device.type):
            wide = dense(weight).to(self._wide(weight))
            product = self.scale * self.dense_up() @ self.down
            rows = wide.movedim(dim, -1)
            change = (rows @ product.to(wide.dtype)).movedim(-1, dim)
            return (wide + change).to(weight.dtype)

    def adapted_bias(self, bias: Tensor | None) -> Tensor | None:
        """Return bias + s W (B a + b); W is that of the layer."""
        if bias is None or self.down_bias is None or self.up_bias is None:
            return bias
        weight = frozen_weight(vars(self)['layer'])
        with full_precision(weight.device.type):
            wide = torch.promote_types(bias.dtype, self._wide(weight))
            kernel = dense(weight).to(wide)
            rows = kernel.reshape(*kernel.shape[:2], -1).sum(2)
            shift = self.dense_up() @ self.down_bias + self.up_bias
            return (bias + self.scale * (rows @ shift.to(wide))).to(bias.dtype)

    def _wide(self, weight: Tensor) -> torch.dtype:
        return torch.promote_types(weight.dtype, self.up.dtype)

    def forward_layer(
        self, layer: nn.Module, inputs: Tensor, *arguments: Any
    ) -> Tensor | None:
        """Apply the adapter to the layer's input, and then the layer."""
        if not isinstance(layer, OperatorLayer):
            return None
        dim = layer.channel_dim
        x, kind = inputs.movedim(dim, -1), inputs.dtype
        a, b = (
            None if one is None else one.to(kind)
            for one in (self.down_bias, self.up_bias)
        )
        hidden = F.linear(x, self.down.to(kind), a)
        change = F.linear(hidden, self.dense_up().to(kind), b)
        adapted = inputs + self.scale * change.movedim(-1, dim)
        return layer.compute(adapted, layer.weight, layer.bias, *arguments)

    def remark(self) -> str:
        if self.down_bias is None:
            return 'no biases: the layer has none, or pads zeros behind them'
        return ''

    def meaning(self) -> dict[str, Any]:
        return dict(
            rank=len(self.down),
            groups=self.groups,
            scale=self.scale,
            with_bias=self.down_bias is not None,
        )


def _shifts_alike(layer: nn.Module) -> bool:
    """Return whether a shift of the input is one of the layer's bias."""
    if layer._parameters.get(bias_name(layer)) is None:
        return False
    if transposed_groups(layer):
        return False
    padding: Any = getattr(layer, 'padding', 0)
    padded = padding not in (0, 'valid') and any(padding)
    return not padded or getattr(layer, 'padding_mode', '') != 'zeros'
