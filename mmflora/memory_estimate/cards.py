"""What a GPU of a given size has room for."""

import math
import re
from typing import NamedTuple

from .estimate import Estimate

GIB = 2**30
# What PyTorch's own statistics do not show, as assumed: the CUDA context,
# kernels and what the driver holds back; workspaces of cuDNN and cuBLAS; and
# the part of what tensors take that the allocator cannot give out, because
# free blocks are too small.
CONTEXT = int(0.8 * GIB)
WORKSPACES = int(0.5 * GIB)
FRAGMENTATION = 0.05


class Card(NamedTuple):
    """A GPU: its name, as given, and its memory in bytes."""

    name: str
    memory: int


class Room(NamedTuple):
    """How a step fits a card.

    Attributes:
        margin: Bytes that stay free; negative: that are missing.
        largest_batch: The most images that fit, 0 if none do.
    """

    margin: int
    largest_batch: int


def parse_card(text: str) -> Card:
    """Read a GPU's memory, such as ``24GB``, which is 24 · 2^30 bytes.

    Raises:
        ValueError: If it is no such size.
    """
    size = r'(\d+(?:\.\d+)?)\s*(?:G|GB|GiB)?'
    match = re.fullmatch(size, text.strip(), re.IGNORECASE)
    gigabytes = float(match[1]) if match else 0.0
    if not 0 < gigabytes < math.inf:
        raise ValueError(
            f'--gpu: {text!r} is no memory size. Give gigabytes, such as '
            '24GB, 40GB or 80GB.'
        )
    return Card(f'{gigabytes:g} GB', int(gigabytes * GIB))


def needed(estimate: Estimate) -> int:
    """Return the memory that a GPU needs for a step, allowances included."""
    moving = int(estimate.step.peak * FRAGMENTATION)
    return estimate.peak + moving + CONTEXT + WORKSPACES


def room(
    card: Card, estimate: Estimate, larger: Estimate, fewest: int = 1
) -> Room:
    """Return how a step fits a card.

    What a step holds beside weights and state grows with each image by the
    same: the largest batch follows from two batches.

    Args:
        card: The card.
        estimate: The step.
        larger: The same with more images.
        fewest: Images with which the model trains at all.
    """
    more = larger.images - estimate.images
    if more < 1:
        raise ValueError(
            f'`larger` has {larger.images} images, not more than the '
            f'{estimate.images} of `estimate`.'
        )
    margin = card.memory - needed(estimate)
    per_image = (needed(larger) - needed(estimate)) / more
    if per_image <= 0:  # the update is what is largest
        return Room(margin, estimate.images if margin >= 0 else 0)
    images = estimate.images + math.floor(margin / per_image)
    return Room(margin, images if images >= fewest else 0)
