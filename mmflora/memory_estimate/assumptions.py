"""What is assumed of a detector's data, in a step without any.

The number of proposals that match objects decides how much memory the heads
take, and changes during training.  The largest number is assumed: each sampler
of a second stage finds as many positives as it may take.  Outputs of heads,
which give the proposals, are small random numbers, as of an untrained head.
"""

from collections.abc import Callable
from typing import Any

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


def draw_head_outputs(model: nn.Module, values: KnownValues) -> None:
    """Let the outputs of a detector's heads have values, drawn at random."""

    def draw(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
        for tensor in tensors_in(outputs):
            values.draw(tensor, SPREAD)

    for name, module in model.named_modules():
        dense = name and hasattr(module, 'loss_by_feat')
        if dense or hasattr(module, 'bbox_coder'):
            module.register_forward_hook(draw)
