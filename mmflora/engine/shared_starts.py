"""Adapters start alike in all processes."""

from collections.abc import Iterable
from typing import Any

from mmengine.dist import broadcast, get_world_size

from mmflora.checkpoint.sharded import is_sharded


def share_starts(layers: Iterable[Any]) -> None:
    """Give adapters the state that they have in the first process.

    Draws follow the seed, which each process may have its own of
    (``diff_rank_seed``); decompositions differ in a sign, and sums in the
    last digit, from one kind of processor to another.  What an adapter reads
    off its state when it is loaded, it reads again.

    Args:
        layers: The adapted layers and blocks.
    """
    if get_world_size() == 1:
        return
    for layer in layers:
        state = layer.adapter.state_dict()
        for tensor in state.values():
            if not is_sharded(tensor):
                broadcast(tensor)
        layer.adapter.load_state_dict(state)
