"""How a model with frozen parts starts to train.

Classes of the toolkits draw weights of their children again when
``init_weights()`` is called on the model: DINO those of its encoder and
decoder, heads those of their layers.  New parameters need that; frozen parts
must not notice.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmflora.checkpoint.fit import Fit
from mmflora.checkpoint.keys import Shapes, state_shapes
from mmflora.checkpoint.record import base_records
from mmflora.files.checksums import check_finite
from mmflora.files.sources import find_source, read_state_dict

from .kept_classes import KeptClasses


class StartFromFile:
    """Takes the place of a model's ``init_weights``.

    Args:
        model: The model, with its frozen parts.
        source: The ``init_cfg`` of the whole model's checkpoint, or ``None``.
        new: Patterns of keys outside of the parts that the file may lack;
            they start as the model's class draws them.
        unused: Patterns of the file's keys without use.
        kept: Which classes of the file stay; their rows of weights of another
            shape are taken over.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Mapping[str, Any] | None,
        new: tuple[str, ...],
        unused: tuple[str, ...],
        kept: KeptClasses | None = None,
    ) -> None:
        self.model = model
        self.source = source
        self.new = new
        self.unused = unused
        self.kept = kept

    def __call__(self) -> None:
        """Draw what is new; take the rest from the file.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it does not fit; all keys are listed.
        """
        kind: Any = type(self.model)
        with parts_out_of_reach(self.model):
            kind.init_weights(self.model)
        if self.source is not None:
            self._load_rest(self.source)

    @torch.no_grad()
    def _load_rest(self, source: Mapping[str, Any]) -> None:
        place = find_source(source['checkpoint'])
        inside = tuple(f'{name}.' for name in base_records(self.model))
        stored = read_state_dict(place, source.get('prefix'))
        weights = {k: v for k, v in stored.items() if not k.startswith(inside)}
        fit = Fit(outside_shapes(self.model), self.new, self.unused)
        fitted = fit(weights)
        fit.conclude(place, self.model)
        check_finite(fitted, f"The base weights '{place}'")
        own = self.model.state_dict()
        for key, value in fitted.items():
            if key in own and own[key].shape == value.shape:
                own[key].copy_(value)
        for key, value in stored.items():
            if self.kept and key in own and own[key].shape != value.shape:
                ours, places = own[key], self.kept.places
                for row, other in places(key, value.shape, ours.shape):
                    ours[row].copy_(value[other])


def outside_shapes(model: nn.Module) -> Shapes:
    """Return the shapes of what stands outside of a model's frozen parts."""
    inside = tuple(f'{name}.' for name in base_records(model))
    return {
        key: shape
        for key, shape in state_shapes(model).items()
        if not key.startswith(inside)
    }


@contextmanager
def parts_out_of_reach(model: nn.Module) -> Iterator[None]:
    """Within this context the tensors of frozen parts are scratch ones.

    New parameters stay within reach, and so does a base that is not known by
    its content: where there is no file, it is drawn like the rest.
    """
    scratch: dict[Tensor, Tensor] = {}
    places: list[tuple[Any, str, Tensor]] = []
    for part, record in base_records(model).values():
        own = dict(part.named_parameters())
        reach = {own[key] for key in record.new_keys}
        if not record.in_place:
            keys = (*record.base_keys, *record.tuned_keys)
            reach |= {own[key] for key in keys}
        for module in part.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None and tensor not in reach:
                        places.append((held, name, tensor))
    try:
        for held, name, tensor in places:
            if tensor not in scratch:
                scratch[tensor] = _scratch(tensor)
            held[name] = scratch[tensor]
        _announce(model, scratch)
        yield
    finally:
        for held, name, tensor in places:
            held[name] = tensor


def _announce(model: nn.Module, scratch: Mapping[Tensor, Tensor]) -> None:
    """Tell MMEngine of them, if it is initializing a model around this one.

    It keeps a record of each parameter, and refuses others.
    """
    known = getattr(model, '_params_init_info', None)
    for tensor, blank in scratch.items():
        if known is not None and tensor in known:
            known[blank] = dict(known[tensor])


def _scratch(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, nn.Parameter):
        return tensor.clone()
    blank = torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return nn.Parameter(blank, requires_grad=tensor.requires_grad)
