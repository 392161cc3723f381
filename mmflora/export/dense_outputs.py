"""What a model computes by tensors alone, and how two models differ in it.

Boxes are chosen by suppression and sorting, where a rounding error may swap
two; so models are compared, and exported as graphs, up to that point.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class DenseOutputs(nn.Module):
    """A model up to its dense outputs, as a function of preprocessed images.

    For a segmentor these are the decode head's logits (features, where the
    head is one of mask queries); for a detector the
    features of its neck and what its dense head (RPN, RetinaNet …) makes of
    them; for a model whose head needs more than features, the features.

    Args:
        model: A segmentor or detector, or a backbone.
        backbone_only: Stop after the backbone.
    """

    def __init__(self, model: nn.Module, backbone_only: bool = False) -> None:
        super().__init__()
        whole = getattr(model, 'backbone', None)
        self.model = whole if backbone_only and whole is not None else model
        self.whole = whole is not None and not backbone_only

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return all tensors, in an order that :meth:`named` names.

        Args:
            images: Shape ``(N, 3, H, W)``, preprocessed.
        """
        return tuple(self.named(images).values())

    def named(self, images: Tensor) -> dict[str, Tensor]:
        """Return all tensors by name, such as ``features_0``."""
        model: Any = self.model
        if not self.whole:
            return _flat('features', model(images))
        head = getattr(model, 'decode_head', None)
        if head is not None and not hasattr(head, 'pixel_decoder'):
            return _flat('logits', model(images, mode='tensor'))
        features = model.extract_feat(images)
        outputs = _flat('features', features)
        head = getattr(model, 'rpn_head', None)
        if head is None:
            head = getattr(model, 'bbox_head', None)
        if head is not None and hasattr(head, 'forward_single'):
            outputs |= _flat('head', head(features))
        return outputs


def _flat(name: str, value: Any) -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {name: value}
    found: dict[str, Tensor] = {}
    for index, item in enumerate(value):
        found |= _flat(f'{name}_{index}', item)
    return found


@dataclass
class Difference:
    """How far two models' outputs are apart at most.

    Attributes:
        absolute: The largest absolute difference of any two elements.
        relative: The largest difference within one output, relative to that
            output's largest absolute value.
        where: The name of the output with the largest relative difference.
        outputs: How many outputs were compared.
    """

    absolute: float
    relative: float
    where: str
    outputs: int

    def __str__(self) -> str:
        """Return it as one line."""
        return (
            f'largest difference of {self.outputs} outputs: absolute '
            f'{self.absolute:.2e}, relative {self.relative:.2e} '
            f"(in '{self.where}')"
        )


def largest_difference(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> Difference:
    """Compare outputs by name.

    Args:
        expected: Outputs to compare with.
        found: Outputs of the same names and shapes.

    Returns:
        The largest difference; ``inf`` where an output is not finite.

    Raises:
        ValueError: If names or shapes differ.
    """
    shapes = [
        {name: tuple(value.shape) for name, value in outputs.items()}
        for outputs in (expected, found)
    ]
    if shapes[0] != shapes[1] or not expected:
        raise ValueError(
            'The outputs of the two models cannot be compared: one gives '
            f'{shapes[0]}, the other {shapes[1]}.'
        )
    worst = Difference(0.0, 0.0, next(iter(expected)), len(expected))
    for name, value in expected.items():
        off = float((value.double() - found[name].double()).abs().max())
        largest = float(value.double().abs().max())
        relative = off / largest if largest else (off and math.inf)
        if not math.isfinite(relative):
            off = relative = math.inf
        worst.absolute = max(worst.absolute, off)
        if relative > worst.relative:
            worst.relative, worst.where = relative, name
    return worst


@torch.no_grad()
def dense_outputs(
    model: nn.Module, images: Tensor, backbone_only: bool = False
) -> dict[str, Tensor]:
    """Return a model's dense outputs by name, computed in evaluation mode."""
    model.eval()
    return DenseOutputs(model, backbone_only).named(images)


def own_precision(model: nn.Module) -> AbstractContextManager[Any]:
    """Return autocast for a model that keeps weights in half precision."""
    kinds = {parameter.dtype for parameter in model.parameters()}
    for half in (torch.bfloat16, torch.float16):
        if half in kinds:
            return torch.autocast('cpu', half)
    return nullcontext()


def random_images(
    size: tuple[int, int], seed: int = 0, number: int = 2
) -> Tensor:
    """Return random images as a model sees them after preprocessing.

    Args:
        size: Height and width in pixels.
        seed: Of the random numbers.
        number: How many.

    Returns:
        Shape ``(number, 3, height, width)``, Gaussian.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, 3, *size, generator=generator)


def image_size(model: Any) -> tuple[int, int]:
    """Return the size of images that a model's config speaks of."""
    for place, key in (
        ('test_cfg', 'crop_size'),
        ('data_preprocessor', 'size'),
    ):
        size = (model.get(place) or {}).get(key)
        if size:
            return int(size[0]), int(size[1])
    return 256, 256
