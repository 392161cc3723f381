"""What is assumed of a detector's data, in a step without any.

The number of proposals that match objects decides how much memory the heads
take, and changes during training.  The largest number is assumed: each sampler
of a second stage finds as many positives as it may take.  Outputs of heads,
which give the proposals, are small random numbers, as of an untrained head.
So is what queries are matched to objects by: which one gets an object depends
on it, but not how many do.
"""

from collections.abc import Callable
from typing import Any

from mmengine.structures import BaseDataElement as Fields
from torch import nn

from .fake_tensors import KnownValues
from .live_bytes import tensors_in

# Spread of a head's outputs: about that of an untrained head.
SPREAD = 0.1


def fill_samplers(model: nn.Module) -> int:
    """Let the second stages of a detector find all the positives they may.

    Args:
        model: The detector, changed in place.

    Returns:
        The most positives of one image, 0 for a model without second stage.
    """
    most = 0
    for module in model.modules():
        assigners = getattr(module, 'bbox_assigner', None)
        samplers: Any = getattr(module, 'bbox_sampler', None)
        if not isinstance(assigners, list):  # cascades have one per stage
            assigners, samplers = [assigners], [samplers]
        for assigner, sampler in zip(assigners, samplers, strict=True):
            number = getattr(sampler, 'num', None)
            fraction = getattr(sampler, 'pos_fraction', None)
            if assigner and isinstance(number, int) and fraction is not None:
                positives = int(number * fraction)
                assigner.assign = _generous(assigner.assign, positives)
                most = max(most, positives)
    return most


def _generous(
    assign: Callable[..., Any], positives: int
) -> Callable[..., Any]:
    """Assign the first proposals to the first object, whatever they are."""

    def generous(priors: Any, objects: Any, *args: Any, **kwargs: Any) -> Any:
        result = assign(priors, objects, *args, **kwargs)
        if len(objects):
            result.gt_inds[:positives] = 1
            if result.labels is not None:
                result.labels[:positives] = objects.labels[0]
        return result

    return generous


def draw_assigned(model: nn.Module, values: KnownValues | None) -> bool:
    """Let the predictions that objects are assigned to have values.

    Args:
        model: The model, changed in place.
        values: What follows values; ``None`` for real tensors.

    Returns:
        Whether the model assigns objects.
    """
    found = False
    for module in model.modules():
        for item in list(vars(module).values()):
            # Cascades have one per stage.
            for assigner in item if isinstance(item, list) else [item]:
                if callable(getattr(assigner, 'assign', None)):
                    found = True
                    if values is not None:
                        assigner.assign = _informed(assigner.assign, values)
    return found


def _informed(
    assign: Callable[..., Any], values: KnownValues
) -> Callable[..., Any]:
    """Draw what is not known of an assigner's arguments."""

    def informed(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            fields = value.values() if isinstance(value, Fields) else [value]
            for tensor in tensors_in(list(fields)):
                if not values.is_known(tensor):
                    values.draw(tensor, SPREAD)
        return assign(*args, **kwargs)

    return informed


def draw_head_outputs(model: nn.Module, values: KnownValues) -> None:
    """Let the outputs of a detector's heads have values, drawn at random."""

    def draw(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
        for tensor in tensors_in(outputs):
            values.draw(tensor, SPREAD)

    for name, module in model.named_modules():
        dense = name and hasattr(module, 'loss_by_feat')
        if dense or hasattr(module, 'bbox_coder'):
            module.register_forward_hook(draw)
