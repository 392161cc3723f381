"""The layers that peft adapts: stock layers that compute through peft's."""

from typing import Any

from torch import Tensor, nn

from ..layers import AdaptedLayer


class BridgedLayer(AdaptedLayer):
    """An adapted layer whose forward pass is peft's.

    Its classes are made per stock class, see :func:`bridged_class`.
    """

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the layer as peft adapts it, or as it was."""
        if not self.adapter_enabled:
            stock: Any = self.stock_class
            return stock.forward(self, input, *args, **kwargs)
        adapter: Any = self.adapter
        return adapter.peft_layer(input, *args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the stock class: this one has no name."""
        return _blank, (self.stock_class,), vars(self)


_CLASSES: dict[type[nn.Module], type[BridgedLayer]] = {}


def bridged_class(stock: type[nn.Module]) -> type[BridgedLayer]:
    """Return the bridged class of a stock class, always the same one."""
    if stock not in _CLASSES:
        name = f'Bridged{stock.__name__}'
        _CLASSES[stock] = type(name, (BridgedLayer, stock), {})
    return _CLASSES[stock]


def _blank(stock: type[nn.Module]) -> BridgedLayer:
    """Return a bridged layer without any state."""
    kind = bridged_class(stock)
    return kind.__new__(kind)
