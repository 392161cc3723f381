"""Forward and backward passes of a frozen weight with a trainable update.

``functional.py`` has the formulas; what stands here computes the same with
less work and memory than automatic differentiation would:

- the update is folded into the weight, so that one matrix product or one
  convolution serves both, forward and for the input's gradient;
- the gradients of the two factors of a low-rank update come from products as
  thin as the rank, without the dense gradient of the weight;
- an update at few places of the weight is added again in the backward pass,
  and of the weight's gradient its entries alone are kept;
- a layer's input is kept as the recipe that its producer left, if it did.

Autograd takes care of how the factors (or the folded weight) come from the
parameters.  The functions are differentiable once.
"""

from .changed import changed
from .geometry import Geometry
from .linear_map import LinearMap
from .update import Operator, trained, updated

__all__ = [
    'Geometry',
    'LinearMap',
    'Operator',
    'changed',
    'trained',
    'updated',
]
