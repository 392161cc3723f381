"""One copy of a frozen base for several backbones."""

from torch import Tensor, nn

from mmflora.adapters.quantized import QuantizedWeight
from mmflora.checkpoint.record import (
    BaseRecord,
    base_tensors,
    content_hash,
)
from mmflora.checkpoint.state import keep_base


class SharedBase:
    """The frozen tensors that several backbones stand on.

    Parameters stay each backbone's own objects, under their names; what they
    share is the memory behind them.  So every method works on a shared base,
    and a backbone that is dropped leaves the base to the others.

    Attributes:
        tensors: By their names in the backbones; those of other frozen parts
            have the part's path before them.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def lend(
        self,
        backbone: nn.Module,
        record: BaseRecord,
        sha256: str | None,
        part: str = '',
    ) -> bool:
        """Put a backbone on this base, if this is the base that it needs.

        Args:
            backbone: A backbone, whatever its base holds so far.
            record: Its record.
            sha256: The content of the base that it needs.
            part: Its path in the model.

        Returns:
            Whether it was done; it is not where the content differs, or the
            backbone freezes a parameter that this base does not hold.
        """
        places = {key: _prefix(part) + key for key in record.base_keys}
        if sha256 is None or not places:
            return False
        if not self.tensors.keys() >= set(places.values()):
            return False
        held = {key: self.tensors[place] for key, place in places.items()}
        own = base_tensors(backbone, record)
        if any(not _alike(own[key], held[key]) for key in held):
            return False
        if content_hash(held) != sha256:
            return False
        for key, parameter in own.items():
            parameter.data = held[key]
        return True

    def adopt(
        self, backbone: nn.Module, record: BaseRecord, part: str = ''
    ) -> None:
        """Share with a backbone whose base is in place, whole or in part.

        What this base lacks is taken from the backbone.

        Raises:
            ValueError: If the backbone stands on another base; nothing has
                changed then.
        """
        own = {
            _prefix(part) + key: parameter
            for key, parameter in base_tensors(backbone, record).items()
        }
        for key, parameter in own.items():
            held = self.tensors.get(key)
            if held is not None and not _same(parameter, held):
                raise ValueError(
                    f"The backbone's base differs from the resident one in "
                    f"'{key}': its adapter was trained over another base "
                    f'({record.source}). Keep the tasks of each base in a '
                    'TaskSet of their own.'
                )
        for key, parameter in own.items():
            held = self.tensors.setdefault(key, parameter.detach())
            parameter.data = held

    def bytes(self) -> int:
        """Return the size of the base in memory."""
        # Of quantized weights, what is stored.
        return sum(tensor.nbytes for tensor in self.tensors.values())


def settle(
    backbone: nn.Module, record: BaseRecord, described: dict[str, object]
) -> None:
    """Note in a record that the base it stands on is the one described.

    Args:
        backbone: A backbone that a base was lent to.
        record: Its record.
        described: ``source``, ``sha256`` and ``origin`` of that base.
    """
    record.set_base(
        described['source'],  # type: ignore[arg-type]
        described['sha256'],  # type: ignore[arg-type]
        described['origin'],  # type: ignore[arg-type]
    )
    keep_base(backbone)


def _prefix(part: str) -> str:
    """Return what stands before a part's keys; backbones share theirs."""
    return '' if part.split('.')[-1] in ('', 'backbone') else f'{part}.'


def _alike(first: Tensor, second: Tensor) -> bool:
    return (
        first.shape == second.shape
        and first.dtype == second.dtype
        and first.device == second.device
        and getattr(first, 'scheme', None) == getattr(second, 'scheme', None)
    )


def _same(first: Tensor, second: Tensor) -> bool:
    if isinstance(first, QuantizedWeight):
        shared = first.shares_with(second)
    else:
        shared = first.data_ptr() == second.data_ptr()
    return _alike(first, second) and (
        shared or bool((first.detach() == second).all())
    )
