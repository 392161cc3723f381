"""What all adapted layers share."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import Adapter, LowRank
from ..cost import choose_path
from ..functional import scale_output
from ..operators import Operator, changed, trained, updated


class AdaptedLayer(nn.Module):
    """What all adapted layers share.

    Attributes:
        weight: The frozen weight W, under its old name.
        bias: The frozen bias or ``None``, under its old name.
        adapter: The update of the weight.
        stock_class: The class that the layer had before.
        adapter_enabled: Whether the update counts; the frozen layer computes
            if not.
        weight_name: The name of the weight that is adapted.
        bias_name: The name of the bias that goes with it.
    """

    weight: Tensor
    bias: Tensor | None
    adapter: Adapter
    stock_class: type[nn.Module]
    adapter_enabled: bool = True
    weight_name: ClassVar[str] = 'weight'
    bias_name: ClassVar[str] = 'bias'

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse a new weight in the place of a frozen one.

        ``mmcv.cnn.fuse_conv_bn`` puts the product of W and a norm there, and
        would leave ΔW as it is.
        """
        if isinstance(value, nn.Parameter) and name == self.weight_name:
            old = self._parameters.get(name)
            if old is not None and value.requires_grad > old.requires_grad:
                raise RuntimeError(
                    f'The frozen {name} of {type(self).__name__} cannot be '
                    'replaced by a new parameter, as fusing with a norm does: '
                    'it has an adapter, which would stay as it is. Merge '
                    'first, with mmflora.merge(model) or tools/merge.py.'
                )
        super().__setattr__(name, value)

    def base_weight(self) -> nn.Parameter:
        """Return the frozen weight W."""
        weight = self._parameters[self.weight_name]
        if weight is None:
            raise AttributeError(f'{self.weight_name} is None')
        return weight

    def base_bias(self) -> nn.Parameter | None:
        """Return the frozen bias, ``None`` where there is none."""
        return self._parameters.get(self.bias_name)

    def delta_weight(self) -> Tensor:
        """Return the adapted weight less W, in the shape of the weight."""
        if self.adapter.additive:
            return self.adapter.delta_weight()
        weight = self.base_weight()
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        return self.adapter.adapted_weight(wide) - wide

    def adapted_weight(self) -> Tensor:
        """Return W + ΔW, or W where the adapter is disabled."""
        if not self.adapter_enabled:
            return self.base_weight()
        weight = self.adapter.adapted_weight(self.base_weight())
        if weight.requires_grad and not self.adapter.is_calibrated:
            # Whoever reads the weight may look at its type alone.
            weight.register_hook(lambda _: self.adapter.check_start())
        return weight

    def adapted_bias(self) -> Tensor | None:
        """Return the adapted bias, the frozen one if it is disabled."""
        bias = self.base_bias()
        return (
            self.adapter.adapted_bias(bias) if self.adapter_enabled else bias
        )


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLayer]:
    """Return the adapted layers of a model by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, AdaptedLayer)
    }


class OperatorLayer(AdaptedLayer):
    """An adapted layer that applies one operator with one weight."""

    @property
    def channel_dim(self) -> int:
        """The dimension of the output's channels, from the end."""
        return 1 - self.weight.dim()

    def compute(
        self,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *arguments: Any,
    ) -> Tensor:
        """Apply the layer's operator with the given weight and bias."""
        raise NotImplementedError

    def forward(self, input: Tensor, *arguments: Any) -> Tensor:
        """Compute the layer with W + ΔW.

        With dropout in training, the update sees another input than the
        frozen weight does, which costs a second pass through the operator.
        """
        if not self.adapter_enabled:
            return self.compute(input, self.weight, self.bias, *arguments)
        self.adapter.check_start()
        if self.training and self.adapter.dropout > 0:
            dropped = F.dropout(input, self.adapter.dropout)
            delta = self.delta_weight().to(self.weight.dtype)
            frozen = self.compute(
                input, self.weight, self.adapted_bias(), *arguments
            )
            return frozen + self.compute(dropped, delta, None, *arguments)
        output = self.adapter.forward_layer(self, input, *arguments)
        if output is None:
            output = self.compute_adapted(input, *arguments)
        return output

    def compute_adapted(self, inputs: Tensor, *arguments: Any) -> Tensor:
        """Apply the operator with W + ΔW, without dropout."""
        weight, bias = self.adapted_weight(), self.adapted_bias()
        return self.compute(inputs, weight, bias, *arguments)

    def compute_low_rank(
        self, inputs: Tensor, positions: int, operator: Operator
    ) -> Tensor | None:
        """Apply the operator by the update's factors.

        Returns:
            ``None`` where the weight trains, the update has no factors, or
            the dense path is asked for, or the cheapest.
        """
        update = None if self.weight.requires_grad else self.adapter.low_rank()
        if update is None:
            return None
        path = self.chosen_path(positions, update)
        if path == 'dense':
            return None
        scale = self.adapter.output_scale(self.weight)
        bias = self.adapted_bias()
        own = bias if scale is None else None
        folded = path == 'folded'
        output = updated(inputs, self.weight, own, *update, operator, folded)
        return scale_output(output, scale, bias, self.channel_dim)

    def compute_dense(self, inputs: Tensor, operator: Operator) -> Tensor:
        """Apply the operator with W + ΔW, added once.

        Where the weight is frozen and the update has few entries, their
        gradients alone are kept.
        """
        own = None if self.weight.requires_grad else self.adapter.entries()
        bias = self.adapted_bias()
        if own is None:
            weight = self.adapted_weight()
            return trained(inputs, weight, bias, operator)
        return changed(inputs, self.weight, bias, own, operator)

    def chosen_path(self, positions: int, update: LowRank) -> str:
        """Return the path that the adapter asks for, or the cheapest."""
        if self.adapter.path != 'auto':
            return self.adapter.path
        rank = len(update.right)
        rows = len(self.weight)
        columns = self.weight.numel() // max(1, rows)
        return choose_path(positions, rows, columns, rank)
