"""GPS: the connections of each neuron train that the task moves most."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..calibrated import CalibratedAdapter
from ..functional import channel_view
from ..layer_weights import frozen_weight, transposed_groups
from ..settings import is_whole
from ..sparse import SparseAdapter
from ..stored import Settings, Tensors


@ADAPTERS.register_module()
class GPS(CalibratedAdapter, SparseAdapter):
    """Of each neuron, the K inputs train whose gradients are largest.

    Zhang et al., "Gradient-based Parameter Selection for Efficient
    Fine-Tuning" (CVPR 2024).  A neuron is an output channel, or a row of an
    embedding; its inputs are the entries of the weight that lead to it.  The
    gradient is that of the training's own loss, averaged over the batches of
    the calibration; the paper's is that of a contrastive loss without a head.

    It needs ``calibration`` beside ``adapter``.

    Args:
        weight: The frozen weight.
        per_neuron: K, at most the entries that a neuron has.
        transposed_groups: Of a transposed convolution, its groups.
        dropout: See :class:`Adapter`.

    Raises:
        ValueError: If K is no integer, or more than a neuron has entries.

    Example:
        >>> peft = dict(
        ...     adapter=dict(type='GPS', per_neuron=2),
        ...     calibration=dict(batches=8),
        ... )
    """

    from_layer: ClassVar[tuple[str, ...]] = ('transposed_groups',)
    paper = 'Zhang et al., 2024, arXiv:2312.10136'

    def __init__(
        self,
        weight: Tensor,
        per_neuron: int = 1,
        transposed_groups: int = 0,
        dropout: float = 0.0,
    ) -> None:
        view = channel_view(weight.shape, transposed_groups)
        neurons, inputs = view[0] * view[2], view[1] * view[3]
        if not is_whole(per_neuron, 1, inputs):
            raise ValueError(
                'GPS: `per_neuron` is how many of the '
                f'{inputs} entries of each output channel train, got '
                f'per_neuron={per_neuron!r}. Decrease it for this layer '
                'through `targets`.'
            )
        self.view, self.per_neuron = view, per_neuron
        super().__init__(weight, budget=neurons * per_neuron, dropout=dropout)
        self.ask_for('gradient', weight)

    @classmethod
    def for_layer(cls, layer: nn.Module, **options: Any) -> 'GPS':
        groups = transposed_groups(layer)
        return cls(frozen_weight(layer), transposed_groups=groups, **options)

    def start_from(self, layer: nn.Module, statistic: Tensor) -> None:
        """Choose the entries of each neuron by the averaged gradient."""
        order = torch.arange(statistic.numel(), device=statistic.device)
        rows, sizes = (
            tensor.view(self.view).transpose(1, 2).flatten(2).flatten(0, 1)
            for tensor in (order, statistic.abs())
        )
        found = sizes.topk(self.per_neuron).indices
        self.places.copy_(rows.gather(1, found).flatten().sort().values)
        nn.init.zeros_(self.values)

    @classmethod
    def _blank_of(cls, tensors: Tensors, settings: Settings) -> Any:
        shape = cls.stored_shape(tensors, settings)
        neurons = len(tensors['values']) // cls.setting(settings, 'per_neuron')
        groups = 0 if neurons == shape[0] else neurons // shape[1]
        return cls.blank(shape, {**settings, 'transposed_groups': groups})

    @classmethod
    def has_sums(cls) -> bool:
        """Return no: in a sum, neurons have different numbers of entries."""
        return False
