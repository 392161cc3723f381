"""Parameters that several layers share."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from .base import Adapter, AdapterBase


class Sharing(AdapterBase):
    """An adapter whose parameters are in part those of others too.

    What layers (or blocks) share is one module.  It is the child ``shared`` of
    the first one's adapter; the others refer to it, and have no such child.
    So each shared parameter is one parameter of the model: it is saved,
    counted and decayed once, and copies, moves and wrappers of the model keep
    it shared.  Layers share if one pattern of ``targets``, or patterns of
    equal settings, chose them.

    Attributes:
        shared: What the layers share.
    """

    shared: Any

    @classmethod
    def build_all(
        cls, layers: Mapping[str, nn.Module], **options: Any
    ) -> dict[str, Any]:
        """Build the adapters of all layers, and what they share."""
        built = super().build_all(layers, **options)
        adapters = [one for one in built.values() if isinstance(one, cls)]
        if adapters:
            first, *others = adapters
            first.shared = cls.shared_by(adapters)
            for other in others:  # beside the modules, not among them
                vars(other)['shared'] = first.shared
        return built

    @classmethod
    def shared_by(cls, adapters: Sequence[Any]) -> nn.Module:
        """Return a module of the parameters that adapters share.

        Args:
            adapters: The adapters of all layers, in the order in which
                ``targets`` chose them: that of its patterns, and the model's
                for each.
        """
        raise NotImplementedError

    def place(self) -> tuple[int, ...] | None:
        """Return which part of what is shared is this layer's.

        ``None``, the default, where it does not follow from the order of the
        layers.
        """
        return None


class SharingAdapter(Sharing, Adapter):
    """The trainable update of one frozen weight, in part shared."""


def sharing_layers(model: nn.Module) -> list[str]:
    """Return the names of layers and blocks that share parameters."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module._modules.get('adapter'), Sharing)
    ]
