"""The linear map: its forward pass and its gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor


class LinearMap:
    """What :class:`Geometry` is to convolutions, for linear layers.

    Gradients are made of rows, as :meth:`rows` returns them.
    """

    def apply(
        self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Map ``(..., in)`` by ``(out, in)``."""
        return F.linear(inputs, weight, bias)

    def rows(self, tensor: Tensor) -> Tensor:
        """Return ``(..., n)`` as ``(rows, n)``; a vector is one row."""
        return tensor.flatten(0, -2) if tensor.dim() > 1 else tensor[None]

    def expand(
        self, thin: Tensor, left: Tensor, onto: Tensor | None = None
    ) -> Tensor:
        """Multiply by ``(out, rank)``; add the product in place."""
        if onto is None:
            return thin @ left.T
        onto.view(-1, len(left)).addmm_(self.rows(thin), left.T)
        return onto

    def input_gradient(
        self,
        gradient: Tensor,
        inputs: Tensor,
        weight: Tensor,
        onto: Tensor | None = None,
    ) -> Tensor:
        """Return the input's gradient."""
        if onto is None:
            return gradient @ weight
        return torch.addmm(onto, gradient, weight)

    def weight_gradient(
        self, gradient: Tensor, inputs: Tensor, weight: Tensor
    ) -> Tensor:
        """Return the weight's gradient."""
        return gradient.T @ inputs

    def left_gradient(self, gradient: Tensor, thin: Tensor) -> Tensor:
        """Return the gradient of what :meth:`expand` multiplied by."""
        return gradient.T @ self.rows(thin)

    def bias_gradient(self, gradient: Tensor) -> Tensor:
        """Return the bias's gradient."""
        return self.rows(gradient).sum(0)
