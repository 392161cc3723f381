"""What is assumed of a detector's data, in a step without any.

How many proposals are matched to objects decides how much memory the heads
take, and changes while a model learns.  Assumed is the most: each sampler of
a second stage finds as many positives as it may take.  Outputs of heads, from
which proposals come, are small random numbers, as of an untrained head.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .known_values import KnownValues

# Spread of a head's outputs: about what one puts out that has learnt nothing.
SPREAD = 0.1


def fill_samplers(model: nn.Module) -> int:
    """Let the second stages of a detector find all the positives they may.

    Args:
        model: The detector, changed in place.

    Returns:
        The most positives of one image, 0 for a model without second stage.
    """
    most = 0
    for assigner, sampler in _second_stages(model):
        number = getattr(sampler, 'num', None)
        fraction = getattr(sampler, 'pos_fraction', None)
        if not isinstance(number, int) or fraction is None:
            continue
        positives = int(number * fraction)
        assigner.assign = _generous(assigner.assign, positives)
        most = max(most, positives)
    return most


def _second_stages(model: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Yield the assigner and the sampler of each stage on proposals."""
    for module in model.modules():
        assigners = getattr(module, 'bbox_assigner', None)
        samplers = getattr(module, 'bbox_sampler', None)
        if assigners is None or samplers is None:
            continue
        if not isinstance(assigners, list):
            assigners, samplers = [assigners], [samplers]
        yield from zip(assigners, samplers, strict=True)


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
        for leaf in tree_leaves(outputs):
            if isinstance(leaf, Tensor):
                values.draw(leaf, SPREAD)

    for name, module in model.named_modules():
        if name and hasattr(module, 'loss_by_feat') or _is_box_head(module):
            module.register_forward_hook(draw)


def _is_box_head(module: nn.Module) -> bool:
    return hasattr(module, 'bbox_coder') and hasattr(module, 'forward')
