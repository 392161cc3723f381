"""What backbones that read published files themselves have in common."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from mmflora.checkpoint.base_weights import (
    load_base,
    load_converted,
    pretrained_cfg,
)
from mmflora.checkpoint.keys import Shapes, state_shapes

from .autocast import run_in_autocast


class PublishedWeights:
    """Loads what ``init_cfg`` names, in any layout, checking every key.

    It stands before the plain backbone's class, which takes all arguments
    but ``autocast``.
    """

    init_cfg: Any
    # Patterns of parameters that no published file holds, and of keys of
    # such files without use here.
    new_params: tuple[str, ...] = ()
    unused_keys: tuple[str, ...] = ()

    def __init__(
        self, *args: Any, autocast: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        model: Any = self
        if autocast is not None:
            run_in_autocast(model, autocast)
        self.stock_shapes = state_shapes(model)

    def init_weights(self) -> None:
        """Load the weights that ``init_cfg`` names.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If it does not fit the backbone exactly.
        """
        source = pretrained_cfg(self.init_cfg)
        model: Any = self
        if source is None:
            super().init_weights()  # type: ignore[misc]
            return
        load_base(
            model, source, self.stock_shapes, self.new_params, self.unused_keys
        )
        self._is_init = True

    def load_published(
        self,
        init_cfg: Mapping[str, Any],
        shapes: Shapes,
        optional: Iterable[str],
        unused: Iterable[str],
    ) -> None:
        """Load a file of any layout, see :func:`load_base`."""
        model: Any = self
        load_converted(
            model, init_cfg, self.to_own_keys, shapes, optional, unused
        )

    def to_own_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return published weights under the backbone's own keys."""
        raise NotImplementedError
