"""What an adapter is: one function of a frozen weight."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .cost import PATHS


class LowRank(NamedTuple):
    """An update as a product of two factors, ΔW = L R.

    Attributes:
        left: L, shape ``(out, rank)``.
        right: R, shape ``(rank, in, *kernel)``.
    """

    left: Tensor
    right: Tensor


class Adapter(nn.Module):
    """The trainable update of one frozen weight.

    A method subclasses it in one file, registers in ``ADAPTERS`` and says
    what its update is in :meth:`delta_weight`; forward passes, merging and
    analysis call that and know no other formula.  Dimensions come from the
    weight's shape, never from a layer's ``in_channels``, so that grouped and
    depthwise convolutions need no special case.

    Every parameter of an adapter is trainable and belongs to the adapter:
    nothing is guessed from parameter names.

    Args:
        weight: The frozen weight, of any number of dimensions.  Its shape,
            device and type are read, the tensor itself is not kept.
        dropout: Probability with which, in training, entries of the layer's
            input are dropped on the update's path alone.  In ``[0, 1)``.
        path: How adapted layers compute: ``'folded'``, ``'factored'`` or
            ``'dense'``, see :mod:`mmflora.adapters.cost`; ``'auto'`` takes
            the cheapest for the size of the input.  The result is the same
            up to rounding.

    Attributes:
        mergeable: Whether the adapter is nothing but an update of the weight.

    Raises:
        ValueError: If ``dropout`` is not in ``[0, 1)``, or ``path`` unknown.
    """

    mergeable = True

    def __init__(
        self, weight: Tensor, dropout: float = 0.0, path: str = 'auto'
    ) -> None:
        super().__init__()
        if path not in ('auto', *PATHS):
            raise ValueError(
                f'{type(self).__name__}: `path` is one of auto, '
                f'{", ".join(PATHS)}; got {path!r}.'
            )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(
                f'{type(self).__name__}: dropout is a probability in [0, 1), '
                f'got {dropout!r}.'
            )
        self.weight_shape = weight.shape
        self.dropout = float(dropout)
        self.path = path

    @staticmethod
    def parameter_like(weight: Tensor, *shape: int) -> nn.Parameter:
        """Return an uninitialised parameter that trains beside ``weight``.

        Its device is the weight's.  Its type is float32 where the weight is
        of half precision, as updates of a half-precision parameter are lost
        in rounding; else it is the weight's.
        """
        half = weight.dtype in (torch.float16, torch.bfloat16)
        dtype = torch.float32 if half else weight.dtype
        return nn.Parameter(
            torch.empty(*shape, dtype=dtype, device=weight.device)
        )

    def delta_weight(self) -> Tensor:
        """Return the update ΔW, scaled, in the weight's shape."""
        raise NotImplementedError

    def low_rank(self) -> LowRank | None:
        """Return the update as two factors, ``None`` if it has no such form.

        Layers that have them compute the gradients without the dense
        gradient of the weight.
        """
        return None

    def adapted_weight(self, weight: Tensor) -> Tensor:
        """Return W + ΔW, added in the wider type, in the type of ``weight``.

        Args:
            weight: The frozen weight W.
        """
        return (weight + self.delta_weight()).to(weight.dtype)

    def signature(self) -> str:
        """Return what gives the parameters their meaning: method, settings.

        Adapters of equal signature, parameters and weight compute the same.
        It is made of ``extra_repr()``, which so names every setting (but for
        ``dropout``, which ends with training).
        """
        return f'{type(self).__name__}({self.extra_repr()})'

    def remark(self) -> str:
        """Return what the adapter made of its settings, if not the same.

        It is logged once for all layers, ``''`` where there is nothing.
        """
        return ''

    def core_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that hold the update's core.

        They are those that start at zero and alone carry the update's size;
        an optimizer may give them a learning rate of their own.
        """
        return iter(())
