"""What an adapter is: one function of a frozen weight."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .cost import PATHS
from .entries import Entries
from .functional import low_rank_to_weight
from .layer_weights import describe_layer, frozen_weight, held_weight
from .precision import full_precision
from .settings import check_choice, check_probability, check_settings
from .stored import Stored


class CannotAdapt(ValueError):  # noqa: N818
    """Says why a method leaves a layer out; injection goes on without it."""


class LowRank(NamedTuple):
    """An update as a product of two factors, ΔW = L R.

    Attributes:
        left: L, shape ``(out, rank)``.
        right: R, shape ``(rank, in, *kernel)``.
    """

    left: Tensor
    right: Tensor


class AdapterBase(Stored, nn.Module):
    """What all modules share that a method adds to a model.

    They are registered in ``ADAPTERS`` and stand as the child ``adapter`` of
    the layer or block that they adapt.  Every parameter of one trains and is
    the adapter's own: nothing is guessed from parameter names.

    Attributes:
        paper: Where the method comes from.
        mergeable: Whether the adapter is nothing but an update of the weight
            and bias of its layer.
        why_not_mergeable: Why it is not, for the error.
        from_layer: Arguments of the constructor that :meth:`for_layer` reads
            from the layer, so that they are no settings.
    """

    paper: ClassVar[str] = ''
    from_layer: ClassVar[tuple[str, ...]] = ()
    mergeable: bool = True
    why_not_mergeable: str = ''

    @classmethod
    def build_all(
        cls, layers: Mapping[str, nn.Module], **options: Any
    ) -> dict[str, Any]:
        """Build one adapter for each layer.

        Methods whose layers share parameters override this; others
        :meth:`for_layer`.

        Args:
            layers: The layers by their names in the model, unchanged.
            **options: The method's settings.

        Returns:
            By name an adapter, or a text: why the method leaves it out.

        Raises:
            TypeError: If the method has no such setting.
            ValueError: If it refuses one; the layer is named.
        """
        built: dict[str, Any] = {}
        for name, layer in layers.items():
            try:
                check_settings(cls, options)
                built[name] = cls.for_layer(layer, **options)
            except CannotAdapt as reason:
                built[name] = str(reason)
            except (TypeError, ValueError) as error:
                place = describe_layer(name, layer)
                raise type(error)(f'{place}: {error}') from error
        return built

    @classmethod
    def for_layer(cls, layer: nn.Module, **options: Any) -> 'AdapterBase':
        """Build the adapter of one layer.

        Raises:
            CannotAdapt: If the method leaves such layers out.
        """
        raise NotImplementedError

    @staticmethod
    def parameter_like(weight: Tensor, *shape: int) -> nn.Parameter:
        """Return an uninitialized parameter that trains beside ``weight``.

        Its device is the weight's.  Its type is float32 where the weight is
        of half precision, as updates of a half-precision parameter are lost
        in rounding; else it is the weight's.
        """
        half = weight.dtype in (torch.float16, torch.bfloat16)
        dtype = torch.float32 if half else weight.dtype
        return nn.Parameter(
            torch.empty(*shape, dtype=dtype, device=weight.device)
        )

    def meaning(self) -> dict[str, Any]:
        """Return the settings that give the parameters their meaning.

        All, but for ``dropout`` and the like, which end with training.
        Checkpoints hold them as text: names, order and values stay for good.
        """
        return {}

    def signature(self) -> str:
        """Return the method and its :meth:`meaning`, as checkpoints hold it.

        Adapters of equal signature, parameters and weight compute the same.
        A class that names its settings in ``extra_repr()`` alone, as before
        there was ``meaning()``, keeps its signature.
        """
        settings = _listed(self.meaning())
        for kind in type(self).__mro__:
            if 'meaning' in vars(kind):
                break
            if 'extra_repr' in vars(kind):
                settings = self.extra_repr()
                break
        return f'{type(self).__name__}({settings})'

    def extra_repr(self) -> str:
        """Return the settings, as they stand in a printed model."""
        return _listed(self.meaning())

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

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what weight decay, which pulls towards zero, must leave alone.

        These are the parameters whose zero is not the frozen layer.
        """
        return iter(())

    def follow(self, layer: nn.Module) -> None:
        """Restart over another base, where the start depends on the weight."""


def _listed(settings: Mapping[str, Any]) -> str:
    return ', '.join(f'{name}={value}' for name, value in settings.items())


class Adapter(AdapterBase):
    """The trainable update of one frozen weight.

    A method subclasses it in one file, registers in ``ADAPTERS`` and says
    what its update is in :meth:`delta_weight`; forward passes, merging and
    analysis call that and know no other formula.  Dimensions come from the
    weight's shape, never from a layer's ``in_channels``, so that grouped and
    depthwise convolutions need no special case.

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
        additive: Whether the adapted weight is W + ΔW with ΔW apart from W.
        is_calibrated: Whether its start was made, where data gives it.

    Raises:
        ValueError: If ``dropout`` is not in ``[0, 1)``, or ``path`` unknown.
    """

    additive: ClassVar[bool] = True
    is_calibrated: bool = True

    def __init__(
        self, weight: Tensor, dropout: float = 0.0, path: str = 'auto'
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        self.weight_shape = weight.shape
        self.dropout = check_probability(kind, 'dropout', dropout)
        self.path = check_choice(kind, 'path', path, ('auto', *PATHS))

    @classmethod
    def for_layer(cls, layer: nn.Module, **options: Any) -> 'Adapter':
        return cls(frozen_weight(layer), **options)

    @classmethod
    def looks_at(cls, layer: nn.Module, **options: Any) -> bool:
        """Return whether a layer is of a kind that the method deals with.

        By default these are all layers with a matrix or a kernel; others are
        skipped without a message.
        """
        if isinstance(layer, nn.MultiheadAttention):
            return True
        weight = held_weight(layer)
        return weight is not None and weight.dim() >= 2

    def layer_class(self, layer: nn.Module) -> type[nn.Module] | None:
        """Return the class that a layer takes on, ``None`` for the usual."""
        return None

    def delta_weight(self) -> Tensor:
        """Return the update ΔW, scaled, in the weight's shape.

        By default it is the product of :meth:`low_rank`.  Where the method is
        not additive, it is the part that is added before the weight is
        changed otherwise.
        """
        factors = self.low_rank()
        if factors is None:
            raise NotImplementedError
        with full_precision(factors.left.device.type):
            return low_rank_to_weight(*factors)

    def low_rank(self) -> LowRank | None:
        """Return the update as two factors, ``None`` if it has no such form.

        Layers that have them compute the gradients without the dense
        gradient of the weight.
        """
        return None

    def entries(self) -> Entries | None:
        """Return the update by its entries, ``None`` if it is not sparse."""
        return None

    def check_start(self) -> None:
        """Refuse to train without a start from data; here there is none."""

    def adapted_weight(self, weight: Tensor) -> Tensor:
        """Return W + ΔW, added in the wider type, in the type of W."""
        return (weight + self.delta_weight()).to(weight.dtype)

    def adapted_bias(self, bias: Tensor | None) -> Tensor | None:
        """Return the layer's bias, adapted; by default as it is.

        Args:
            bias: The frozen bias, ``None`` where the layer has none.
        """
        return bias

    def output_scale(self, weight: Tensor) -> Tensor | None:
        """Return g, where the adapted weight is g ⊙ (W + L R) by rows.

        Layers then take the fast path of ``low_rank()`` and scale the output
        channels; ``None`` where nothing is scaled.

        Returns:
            Shape ``(out,)``, or ``None``.
        """
        return None

    def forward_layer(
        self, layer: nn.Module, inputs: Tensor, *arguments: Any
    ) -> Tensor | None:
        """Compute the layer, or return ``None``: it does it by its weight.

        A method may know a cheaper way than through :meth:`adapted_weight`;
        both give the same.  The layer's ``compute`` is its operator.
        """
        return None


def adapted_modules(model: nn.Module) -> dict[str, Any]:
    """Return the layers and the blocks of a model that have an adapter."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module._modules.get('adapter'), AdapterBase)
    }
