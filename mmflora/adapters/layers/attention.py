"""Adapted packed projections of attention."""

from torch import Tensor, nn

from .adapted import AdaptedLayer


class AdaptedMultiheadAttention(AdaptedLayer, nn.MultiheadAttention):
    """``nn.MultiheadAttention`` with an adapter of the packed projection.

    Its ``out_proj`` is a layer of its own (:class:`ReadLinear`).
    """

    weight_name = 'in_proj_weight'
    bias_name = 'in_proj_bias'

    @property
    def in_proj_bias(self) -> Tensor | None:  # type: ignore[override]
        """Return the adapted bias of queries, keys and values."""
        return self.adapted_bias()

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """Return W + ΔW of queries, keys and values, ``(3 E, E)``."""
        return self.adapted_weight()
