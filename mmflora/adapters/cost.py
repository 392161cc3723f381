"""Which way an adapted layer computes: a stated cost rule.

Multiplications of a layer with ``T`` output positions, a weight of ``m`` rows
and ``n`` columns (a kernel's window counts into the columns), and an update of
rank ``r``, beyond those of the frozen layer:

========  ===========================  ==================
path      forward and backward         exact in
========  ===========================  ==================
folded    2 m n r + 2 T r (m + n)      the weight's type
factored  3 T r (m + n)                the output's type
dense     m n r + T m n                the weight's type
========  ===========================  ==================

*Folded* adds the update to the weight, in forward and again in backward, and
gets the factors' gradients from thin products.  *Factored* runs the input
through the two factors, and is cheaper where positions are few against the
weight.  *Dense* folds too, and lets autograd compute the weight's whole
gradient, which is cheaper where the rank is close to the width; it serves any
update, low-rank or not.
"""

PATHS = ('folded', 'factored', 'dense')


def path_costs(
    positions: int, rows: int, columns: int, rank: int
) -> dict[str, int]:
    """Return the multiplications that an update adds to a step, by path.

    Args:
        positions: ``T``, the output positions of the batch: tokens of a
            linear layer, pixels of a convolution.
        rows: ``m``, the output channels.
        columns: ``n``, the input channels times the kernel's window.
        rank: ``r``.
    """
    thin = positions * rank * (rows + columns)
    weight = rows * columns
    return {
        'folded': 2 * weight * rank + 2 * thin,
        'factored': 3 * thin,
        'dense': weight * rank + positions * weight,
    }


def choose_path(positions: int, rows: int, columns: int, rank: int) -> str:
    """Return the cheapest path, the first of :data:`PATHS` at a tie."""
    costs = path_costs(positions, rows, columns, rank)
    cheapest = PATHS[0]
    for path in PATHS[1:]:  # the compiler knows no min() with a key
        if costs[path] < costs[cheapest]:
            cheapest = path
    return cheapest
