"""The backward pass, walked in Python.

PyTorch's engine asks the driver for a GPU's streams before it runs a graph of
CUDA tensors, also of fake ones, and so fails where there is no GPU.  This walk
calls the same nodes in the same order and frees what the engine frees at the
same moments; it runs on real tensors too.

A node's saved tensors live as long as the node.  The engine empties the nodes
that it has run, which Python cannot: nobody else may hold a tensor of the
graph while it is walked.  And nodes of functions written in Python are not
kept by their Python object, but by the nodes that point at them: graphs must
be built within :func:`mmflora.memory_estimate.walkable.walkable_graphs`, which
puts a view between the two.
"""

import heapq
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

# What stays if nobody but a list and the asking function hold a tensor.
_OWN_REFERENCES = 3
_GraphNode = Any
_Key = tuple[int, int]


@dataclass
class _Waiting:
    """A node that has received gradients, and what keeps it alive."""

    node: _GraphNode
    gradients: dict[int, Tensor] = field(default_factory=dict)
    keepers: list[_GraphNode] = field(default_factory=list)


class GraphWalk:
    """One backward pass.

    Args:
        on_gradient: Called with each gradient of a leaf as it is complete.

    Example:
        >>> node = loss.grad_fn
        >>> one = torch.ones_like(loss)
        >>> del loss
        >>> GraphWalk().run([(node, 0, one)])
    """

    def __init__(
        self, on_gradient: Callable[[Tensor], None] | None = None
    ) -> None:
        self._on_gradient = on_gradient
        self._missing: dict[_Key, int] = {}
        self._waiting: dict[_Key, _Waiting] = {}
        self._ready: list[_Key] = []
        # Where gradients that are asked for come by.
        self._wanted: dict[tuple[_Key, int], int] = {}
        self._found: dict[int, Tensor] = {}

    def run(
        self,
        roots: list[tuple[_GraphNode, int, Tensor]],
        wanted: Sequence[Tensor] = (),
    ) -> list[Tensor | None]:
        """Walk from the roots to the leaves.

        Args:
            roots: Nodes, which of their outputs, and its gradient; emptied
                on the way.
            wanted: If given, the tensors whose gradients to return; leaves
                then accumulate none.

        Returns:
            The gradients of ``wanted``.
        """
        for index, tensor in enumerate(wanted):
            self._wanted[_edge_to(tensor)] = index
        self._count([node for node, _, _ in roots])
        with torch.no_grad():
            while roots:
                node, output, gradient = roots.pop()
                self._receive(node, output, gradient)
                del node, gradient
            self._ready = [k for k in self._waiting if not self._missing[k]]
            heapq.heapify(self._ready)
            while self._ready:
                waiting = self._waiting.pop(heapq.heappop(self._ready))
                self._run_node(waiting)
                del waiting
        return [self._found.get(index) for index in range(len(wanted))]

    def _count(self, nodes: list[_GraphNode]) -> None:
        """Count the edges into each node that can be reached."""
        self._missing = defaultdict(int)
        seen = {_key(node) for node in nodes}
        while nodes:
            for following, _ in nodes.pop().next_functions:
                if following is None:
                    continue
                key = _key(following)
                self._missing[key] += 1
                if key not in seen:
                    seen.add(key)
                    nodes.append(following)

    def _run_node(self, waiting: _Waiting) -> None:
        node, waiting.node = waiting.node, None
        edges = node.next_functions
        if _is_leaf(node):
            if not self._wanted:
                self._accumulate(node.variable, waiting.gradients.pop(0))
            return
        results = _call(node, waiting.gradients)
        waiting.keepers.clear()
        keeper = node if any(_is_python(after) for after, _ in edges) else None
        del node  # and with the node what it had saved
        for index, (following, output) in enumerate(edges):
            if following is None:
                continue
            gradient, results[index] = results[index], None
            if gradient is not None:
                self._receive(following, output, gradient, keeper)
            del gradient
            self._take_off(following)

    def _take_off(self, node: _GraphNode) -> None:
        """Take one off the edges that a node still waits for.

        Where it was the last, and no gradient has come, none will come for
        the nodes behind it either.
        """
        nodes, kept = [node], []
        while nodes:
            node = nodes.pop()
            key = _key(node)
            self._missing[key] -= 1
            if self._missing[key]:
                continue
            if key in self._waiting:
                heapq.heappush(self._ready, key)
            else:
                kept.append(node)
                nodes += [n for n, _ in node.next_functions if n is not None]

    def _receive(
        self,
        node: _GraphNode,
        output: int,
        gradient: Tensor,
        keeper: _GraphNode = None,
    ) -> None:
        """Add a gradient to those that a node waits for."""
        key = _key(node)
        gradient = _as_declared(node, output, gradient)
        index = self._wanted.get((key, output))
        if index is not None:
            there = [self._found.pop(index, None)]
            self._found[index] = _added(there, gradient)
            if _is_leaf(node):
                return
        waiting = self._waiting.setdefault(key, _Waiting(node))
        waiting.keepers.append(keeper)
        there = [waiting.gradients.pop(output, None)]
        waiting.gradients[output] = _added(there, gradient)

    def _accumulate(self, leaf: Tensor, gradient: Tensor) -> None:
        if leaf.grad is not None:
            leaf.grad.add_(gradient)
            return
        if gradient.stride() == leaf.stride() and not _is_held(gradient):
            leaf.grad = gradient.detach()
        else:
            leaf.grad = torch.empty_like(leaf).copy_(gradient)
        if self._on_gradient is not None:
            self._on_gradient(leaf.grad)


def _key(node: _GraphNode) -> _Key:
    """Return what tells a node from others; smaller is earlier.

    Leaves come as soon as they can, and else the node made last.
    """
    if _is_leaf(node):
        return (-sys.maxsize, id(node.variable))
    return (-node._sequence_nr(), 0)


def _is_leaf(node: _GraphNode) -> bool:
    return hasattr(node, 'variable') and not node.next_functions


def _is_python(node: _GraphNode) -> bool:
    return isinstance(node, BackwardCFunction)


def _edge_to(tensor: Tensor) -> tuple[_Key, int]:
    if tensor.grad_fn is None:
        return (-sys.maxsize, id(tensor)), 0
    return _key(tensor.grad_fn), tensor.output_nr


def _call(node: _GraphNode, gradients: dict[int, Tensor]) -> list[Any]:
    """Run a node; return a gradient, or none, per edge that leaves it."""
    declared = node._input_metadata
    if not _is_python(node):
        given = [gradients.pop(i, None) for i in range(len(declared))]
        results: Any = node(*given)
        return list(results) if isinstance(results, tuple) else [results]
    # Functions written in Python get zeros where there is no gradient.
    given = [
        gradients.pop(i)
        if i in gradients
        else torch.zeros(like.shape, dtype=like.dtype, device=like.device)
        for i, like in enumerate(declared)
    ]
    results = node.apply(*given)
    results = results if isinstance(results, tuple) else (results,)
    # They return one for each argument, tensor or not.
    needed = zip(results, node.needs_input_grad, strict=False)
    found = iter([result for result, needs in needed if needs])
    return [
        None if following is None else next(found)
        for following, _ in node.next_functions
    ]


def _as_declared(node: _GraphNode, output: int, gradient: Tensor) -> Tensor:
    """Bring a gradient to the shape and type of what it is for."""
    if _is_leaf(node):
        shape, dtype = node.variable.shape, node.variable.dtype
    else:
        declared = node._input_metadata[output]
        shape, dtype = torch.Size(declared.shape), declared.dtype
    if gradient.shape != shape:
        gradient = gradient.sum_to_size(shape)
    return gradient if gradient.dtype == dtype else gradient.to(dtype)


def _added(held: list[Tensor | None], gradient: Tensor) -> Tensor:
    """Add a gradient, in place if nobody else sees the one that is there."""
    there = held.pop()
    if there is None:
        return gradient
    if not _is_shared(there):
        return there.add_(gradient)
    return there + gradient


def _is_shared(tensor: Tensor) -> bool:
    """Say whether others than the asking function hold a tensor's memory."""
    storage = tensor.untyped_storage()
    # The storage is held by its tensor and by the variable here.
    count = torch._C._storage_Use_Count(storage._cdata)
    return count > 2 or sys.getrefcount(tensor) > _OWN_REFERENCES


def _is_held(tensor: Tensor) -> bool:
    """Say whether others than the asking function hold a tensor."""
    return sys.getrefcount(tensor) > _OWN_REFERENCES


def backward(loss: list[Tensor], **options: Any) -> None:
    """Walk the graph of a loss.

    Args:
        loss: The loss, in a list that is emptied: nobody else may hold it.
        **options: As for :class:`GraphWalk`.
    """
    last = loss.pop()
    root = [(last.grad_fn, last.output_nr, torch.ones_like(last))]
    del last
    GraphWalk(**options).run(root)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor] | None = None,
    **_options: Any,
) -> tuple[Tensor | None, ...]:
    """Stand in for ``torch.autograd.grad`` within a walk."""
    tensors = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if grad_outputs is None:
        grad_outputs = [torch.ones_like(tensor) for tensor in tensors]
    elif isinstance(grad_outputs, Tensor):
        grad_outputs = [grad_outputs]
    roots = [
        (tensor.grad_fn, tensor.output_nr, gradient)
        for tensor, gradient in zip(tensors, grad_outputs, strict=True)
    ]
    return tuple(GraphWalk().run(roots, wanted))
