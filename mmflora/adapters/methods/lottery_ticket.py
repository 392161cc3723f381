"""Composable sparse fine-tuning: the entries that moved most train again."""

from typing import ClassVar

from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..calibrated import CalibratedAdapter
from ..sparse import SparseAdapter


@ADAPTERS.register_module()
class LotteryTicket(CalibratedAdapter, SparseAdapter):
    """The entries train that a full fine-tuning has moved most, from the base.

    Ansell et al., "Composable Sparse Fine-Tuning for Cross-Lingual Transfer"
    (ACL 2022), section 3.1: train all, keep the K entries of largest
    |θ1 − θ0|, go back to θ0, train these.  The first run is one of ``Full``
    (or of any toolkit); ``python tools/adapters.py ticket`` reads the places
    from its checkpoint, and the second run names the result as
    ``load_from``.  The paper takes the K largest of the whole model, here
    each weight has as large a part of them.  Tickets of one base add up, as
    the paper composes them: ``python tools/adapters.py combine``.

    Args:
        weight: The frozen weight.
        density: See :class:`SparseAdapter`.
        budget: See :class:`SparseAdapter`.
        dropout: See :class:`Adapter`.

    Example:
        >>> adapter = dict(type='LotteryTicket', density=0.05)
        >>> load_from = 'adapters/ticket'
    """

    by_batches: ClassVar[bool] = False
    paper = 'Ansell et al., 2022, arXiv:2110.07560'

    def __init__(
        self,
        weight: Tensor,
        density: float = 0.05,
        budget: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(weight, density, budget, dropout)
        self.ask_for('movement', weight)

    def start_from(self, layer: nn.Module, statistic: Tensor) -> None:
        """Take the places of the entries that have moved most."""
        self.choose(statistic)

    def remedy(self) -> str:
        return (
            'It is read from a full fine-tuning: python tools/adapters.py '
            'ticket FINETUNED OUT --config CONFIG, and load_from=OUT.'
        )
