"""LoRA: the product of two thin matrices.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021),
section 4.1; for convolutions in two forms.

Differences from loralib: dimensions are the weight's own; ranks are clipped
where a wider product adds nothing (in the spatial form).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import Adapter, CannotAdapt, LowRank
from ..functional import low_rank_to_weight
from ..layer_weights import frozen_weight, transposed_groups
from ..lower_matrices import NearestMatrices
from ..lower_ranks import LowerRanks
from ..precision import full_precision
from ..ranked import Ranked
from ..settings import check_choice, check_count, check_factor, check_flag
from ..stored import Settings, Tensors, scale_of
from ..updates import Update

FORMS = ('spatial', 'loralib')


@ADAPTERS.register_module()
class LoRA(LowerRanks, Adapter):
    """Low-rank update ΔW = s · B A (LoRA, eq. 3), s = alpha / rank.

    A starts as Kaiming's uniform, B at zero.  Forms for convolutions:

    - ``'spatial'``: A is a kernel ``(rank, in / groups, *kernel)``, B one of
      size 1, ``(out, rank)``: a convolution down and a pointwise one up.
      It serves every kind of layer; for matrices it is LoRA itself.
    - ``'loralib'``: A ``(rank k, in k)`` and B ``(out / groups k, rank k)``,
      whose product is read in the memory order of the k × k weight.  It is
      what loralib computes and the form of published comparisons; rows of the
      product are not positions of the kernel, and its real rank is up to
      rank k².  Only for square two-dimensional kernels.

    Args:
        weight: The frozen weight, shape ``(out, in / groups, *kernel)``.
        rank: The rank r.
        alpha: Scales the update: s = alpha / rank.
        form: See above; matrices have one form only.
        rslora: Scale by alpha / √rank instead (Kalajdzievski, 2023).
        groups: The groups of the convolution, for loralib's form.
        **options: As for :class:`Adapter`.

    Raises:
        TypeError: If ``alpha`` is no number or ``rslora`` no flag.
        ValueError: If the rank is below 1 or no integer, ``alpha`` is zero or
            not finite, or the form unknown.

    Example:
        >>> adapter = dict(type='LoRA', rank=8, alpha=16, form='spatial')
    """

    paper = 'Hu et al., 2021, arXiv:2106.09685'
    from_layer: ClassVar[tuple[str, ...]] = ('groups',)
    products: ClassVar[tuple[tuple[str, str], ...]] = (('up', 'down'),)

    def __init__(
        self,
        weight: Tensor,
        rank: int = 8,
        alpha: float = 16.0,
        form: str = 'spatial',
        rslora: bool = False,
        groups: int = 1,
        dropout: float = 0.0,
        path: str = 'auto',
    ) -> None:
        super().__init__(weight, dropout, path)
        kind = type(self).__name__
        self.rank = check_count(kind, 'rank', rank)
        self.alpha = check_factor(kind, 'alpha', alpha)
        self.form = check_choice(kind, 'form', form, FORMS)
        root = check_flag(kind, 'rslora', rslora)
        self.scale = self.alpha / (math.sqrt(rank) if root else rank)
        down, up = _shapes(weight, rank, form, groups)
        self.clipped = form == 'spatial' and down[0] != rank
        self.down = self.parameter_like(weight, *down)
        self.up = self.parameter_like(weight, *up)
        self.reset_parameters()

    @classmethod
    def for_layer(cls, layer: nn.Module, **options: Any) -> 'LoRA':
        weight = frozen_weight(layer)
        if options.get('form') == 'loralib' and weight.dim() > 2:
            _check_loralib(layer, weight)
            options = {**options, 'groups': getattr(layer, 'groups', 1)}
        return cls(weight, **options)

    def reset_parameters(self) -> None:
        """Draw A again and set B to zero."""
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        nn.init.zeros_(self.up)

    def delta_weight(self) -> Tensor:
        """Return s · B A, in the memory order of the weight."""
        with full_precision(self.up.device.type):
            product = low_rank_to_weight(self.scale * self.up, self.down)
            return product.view(self.weight_shape)

    def low_rank(self) -> LowRank | None:
        """Return L = s B and R = A.

        In loralib's form there are two such factors for matrices and kernels
        of size 1 alone.
        """
        if self.form == 'loralib' and len(self.up) != self.weight_shape[0]:
            return None
        with full_precision(self.up.device.type):
            right = self.down.view(-1, *self.weight_shape[1:])
            return LowRank(self.scale * self.up, right)

    def update(self) -> Update:
        """Return the factors.

        Those of loralib's form of a kernel make a matrix, whose entries are
        the update's.
        """
        if self.low_rank() is None:
            return Update.product(self.scale * self.up, self.down)
        return super().update()

    @classmethod
    def stored_shape(
        cls, tensors: Tensors, settings: Settings
    ) -> tuple[int, ...]:
        """Return the weight's shape as A and B have it.

        Of a grouped convolution with loralib's form it is one group's, which
        makes no difference to the update.
        """
        up, down = tensors['up'], tensors['down']
        if settings.get('form') == 'loralib':
            k = up.shape[1] // int(cls.setting(settings, 'rank'))
            if k > 1:
                return len(up) // k, down.shape[1] // k, k, k
        return len(up), *down.shape[1:]

    @classmethod
    def summed_settings(cls, settings: Sequence[Settings]) -> dict[str, Any]:
        forms = {one.get('form', 'spatial') for one in settings}
        if len(forms) != 1:
            raise ValueError(
                f"The adapters have LoRA's forms {sorted(forms)}: only those "
                'of one form can be summed.'
            )
        return super().summed_settings(settings)

    def squeezes(self) -> bool:
        return True

    def squeezed(self, rank: int) -> dict[str, Tensor]:
        """Return B and A of the truncated singular value decomposition."""
        step = self.up.shape[1] // self.rank if self.form == 'loralib' else 1
        near = NearestMatrices(
            LoRA,
            Update.product(self.up, self.down),
            self.down.shape[1:],
            {},
            scale=1.0,
            step=step,
        )
        return near.tensors(rank)

    @classmethod
    def nearest(
        cls,
        tensors: Tensors,
        settings: Settings,
        kernel_rank: int | None = None,
    ) -> Ranked:
        """Return plain LoRAs of the same form and scale."""
        if settings.get('form') != 'loralib':
            return super().nearest(tensors, settings, kernel_rank)
        cls.at_rank(settings, 1, kernel_rank)
        shape = cls.stored_shape(tensors, settings)
        return NearestMatrices(
            LoRA,
            cls.whole_update(tensors, settings),
            tensors['down'].shape[1:],
            dict(form='loralib'),
            scale_of(cls.blank(shape, settings)),
            tensors['up'].shape[1] // cls.trained_rank(settings),
        )

    def core_parameters(self) -> Iterator[nn.Parameter]:
        """Yield B, which starts at zero; LoRA+ gives it a rate of its own."""
        yield self.up

    def remark(self) -> str:
        return f'rank clipped to {len(self.down)}' if self.clipped else ''

    def meaning(self) -> dict[str, Any]:
        one_form = math.prod(self.weight_shape[2:]) == 1
        form = {} if one_form else dict(form=self.form)
        return dict(rank=self.rank, scale=self.scale) | form


def _shapes(
    weight: Tensor, rank: int, form: str, groups: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of A and B."""
    out, inputs, *kernel = weight.shape
    if form == 'loralib' and kernel:
        k = kernel[0]
        inner = rank * k
        return (inner, inputs * groups * k), (out // groups * k, inner)
    if form == 'loralib':
        return (rank, inputs), (out, rank)
    rank = min(rank, out, math.prod(weight.shape[1:]))
    return (rank, inputs, *kernel), (out, rank)


def _check_loralib(layer: nn.Module, weight: Tensor) -> None:
    """Leave out what loralib's form does not know.

    Raises:
        CannotAdapt: If the layer is none of its kind.
    """
    square = len(set(weight.shape[2:])) == 1 and weight.dim() == 4
    if transposed_groups(layer) or not square:
        raise CannotAdapt(
            "loralib's form of LoRA knows square kernels of two dimensions "
            f'alone, not {type(layer).__name__} of '
            f"{tuple(weight.shape[2:])}; form='spatial' does"
        )
