"""What a method declares of its tensors, so that files need no model."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .updates import Update

Settings = Mapping[str, Any]
Tensors = Mapping[str, Tensor]


class Part(NamedTuple):
    """One layer of one adapter of a sum.

    Attributes:
        weight: The factor w_i.
        tensors: By their names in the adapter.
        settings: The method's.
    """

    weight: float
    tensors: Tensors
    settings: Settings


class Stored:
    """How a method's stored tensors are read and summed, without a model.

    If the tensors of a method hold its whole update ΔW,
    :meth:`stored_shape` returns the shape of the weight.  If a weighted sum of
    adapters is an adapter of the same method, the class declares the kind of
    its tensors.

    Attributes:
        products: Pairs B, A of tensors whose products are the update; in a
            sum they stand side by side, and ranks add up.
        linear: Tensors in which the adapter is linear, with the values from
            which they count; in a sum they add up.
        fixed: Tensors that must be equal in all parts of a sum.
        rank_setting: The setting that is the rank of the products.
    """

    products: ClassVar[tuple[tuple[str, str], ...]] = ()
    linear: ClassVar[Mapping[str, float]] = {}
    fixed: ClassVar[tuple[str, ...]] = ()
    rank_setting: ClassVar[str] = 'rank'

    def update(self: Any) -> Update:
        """Return the update as cores and factors, whole without such a form.

        It is what adapters are compared by.
        """
        factors = self.low_rank()
        if factors is None:
            return Update(self.delta_weight().double())
        return Update.product(*factors)

    @classmethod
    def label(cls, settings: Settings) -> str:
        """Return the method's name for messages."""
        return cls.__name__

    @classmethod
    def reader(cls, settings: Settings) -> type['Stored']:
        """Return the class that reads adapters of these settings."""
        return cls

    @classmethod
    def setting(cls, settings: Settings, name: str) -> Any:
        """Return a setting, or its default."""
        default = inspect.signature(cls).parameters[name].default
        return settings.get(name, default)

    @classmethod
    def stored_shape(
        cls, tensors: Tensors, settings: Settings
    ) -> tuple[int, ...] | None:
        """Return the shape of the weight that stored tensors belong to.

        Returns:
            ``None``, the default, where the tensors do not say it.
        """
        return None

    @classmethod
    def blank(cls, shape: Sequence[int], settings: Settings) -> Any:
        """Build an adapter on a weight without values."""
        build: Any = cls
        return build(torch.empty(*shape, device='meta'), **settings)

    @classmethod
    def restored(cls, tensors: Tensors, settings: Settings) -> Any:
        """Return the adapter of one layer, filled, in float64.

        Raises:
            ValueError: If the tensors do not say which weight they are of.
        """
        adapter = cls._blank_of(tensors, settings)
        wide = {
            name: value.double() if value.is_floating_point() else value
            for name, value in tensors.items()
        }
        try:
            adapter.load_state_dict(wide, assign=True)
        except RuntimeError as error:
            raise ValueError(
                f'The stored tensors do not fit the settings: {error}'
            ) from error
        return adapter.requires_grad_(False).eval()

    @classmethod
    def _blank_of(cls, tensors: Tensors, settings: Settings) -> Any:
        shape = cls.stored_shape(tensors, settings)
        if shape is None:
            raise ValueError(
                f'The tensors {sorted(tensors)} of {cls.label(settings)} do '
                'not say which weight they are of.'
            )
        return cls.blank(shape, settings)

    @classmethod
    def stored_signature(cls, tensors: Tensors, settings: Settings) -> str:
        """Return the signature of the adapter that has these tensors."""
        return str(cls._blank_of(tensors, settings).signature())

    @classmethod
    def stored_update(
        cls, tensors: Tensors, settings: Settings
    ) -> Update | None:
        """Return the update that stored tensors are.

        By default the adapter is restored, and asked for its ``update()``.

        Returns:
            ``None`` where it depends on the frozen weight.
        """
        additive = getattr(cls, 'additive', False)
        if not additive or cls.stored_shape(tensors, settings) is None:
            return None
        update: Update = cls.restored(tensors, settings).update()
        return update

    @classmethod
    def has_sums(cls) -> bool:
        """Return whether a weighted sum is an adapter of the method."""
        return bool(cls.products or cls.linear)

    @classmethod
    def summed_settings(cls, settings: Sequence[Settings]) -> dict[str, Any]:
        """Return what changes of the settings in a sum.

        Raises:
            ValueError: If adapters of these settings have no sum.
        """
        name = cls.rank_setting
        ranks = [cls.setting(one, name) for one in settings if cls.products]
        return {name: sum(ranks)} if ranks else {}

    @classmethod
    def summed(
        cls, parts: Sequence[Part], settings: Settings
    ) -> dict[str, Tensor]:
        """Return the tensors of the weighted sum of adapters of one layer.

        Raises:
            ValueError: If their tensors have no sum.
        """
        first = parts[0].tensors
        cls._check_names(parts)
        shape = cls.stored_shape(first, parts[0].settings) or (1, 1)
        total = cls.blank(shape, settings)
        shares = [
            part.weight * scale_of(cls.blank(shape, part.settings))
            for part in parts
        ]
        shares = [share / scale_of(total) for share in shares]
        found = {name: first[name] for name in cls.fixed}
        for name, start in cls.linear.items():
            if name in first:
                found[name] = start + _sum(parts, shares, name, start)
        for up, down in cls.products:
            pairs = zip(shares, parts, strict=True)
            left = torch.cat(
                [share * p.tensors[up].double() for share, p in pairs], 1
            )
            right = torch.cat([p.tensors[down].double() for p in parts])
            wanted = getattr(total, up, left)  # a method may clip its rank
            found[up], found[down] = _fit(left, right, wanted.shape[1])
        return found

    @classmethod
    def _check_names(cls, parts: Sequence[Part]) -> None:
        """Check that all parts have the same tensors, and known ones."""
        names = parts[0].tensors.keys()
        needed = {*cls.fixed, *sum(cls.products, ())}
        if not needed <= names <= needed | cls.linear.keys():
            raise ValueError(
                f'{cls.label(parts[0].settings)}: a layer has the tensors '
                f'{sorted(names)}; those with {sorted(needed)} are summed.'
            )
        for part in parts:
            if part.tensors.keys() != names:
                raise ValueError(
                    f'Adapters of a layer have the tensors {sorted(names)} '
                    f'and {sorted(part.tensors)}: only those of one setting '
                    'can be summed.'
                )
            for name in cls.fixed:
                if not torch.equal(part.tensors[name], parts[0].tensors[name]):
                    raise ValueError(
                        'The adapters stand on different values of the frozen '
                        f"'{name}', as another machine may find them, such as "
                        f'different singular vectors: their '
                        f'{cls.label(part.settings)} adapters have no sum.'
                    )


def scale_of(adapter: Any) -> float:
    """Return by what an adapter multiplies its update."""
    scale = getattr(adapter, 'scale', 1.0)
    return scale if isinstance(scale, float) else 1.0


def _sum(
    parts: Sequence[Part], shares: Sequence[float], name: str, start: float
) -> Tensor:
    values = [part.tensors[name].double() - start for part in parts]
    pairs = zip(shares, values, strict=True)
    return torch.stack([share * value for share, value in pairs]).sum(0)


def _fit(left: Tensor, right: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Return a product's factors with an inner size of at most a limit.

    The limit is the smaller side of the product, so that nothing is lost.
    """
    if left.shape[1] <= limit:
        return left, right
    whole = left @ right.flatten(1)
    unit = torch.eye(limit, dtype=left.dtype)
    if limit == len(left):
        return unit, whole.view(limit, *right.shape[1:])
    return whole, unit.view(limit, *right.shape[1:])
