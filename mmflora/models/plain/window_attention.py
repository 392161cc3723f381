"""Attention of a plain transformer within windows of patches.

A copy of this file belongs beside one of ``timm_intermediates.py``.  It needs
torch alone.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Windows:
    """Hooks that run a module of attention within windows of patches.

    As in ViTDet (Li et al., 2022), whose windows do not overlap: zeros are
    added to the map of patches up to whole windows, and cut off again.  Tokens
    of no patch (class, registers, prompts behind the patches) are in every
    window; the mean over the windows is what they become.

    Args:
        side: Patches along each side of a window.
        prefix: How many tokens of no patch come first.

    Attributes:
        grid: Rows and columns of patches; set before each pass.
    """

    def __init__(self, side: int, prefix: int) -> None:
        self.side, self.prefix = side, prefix
        self.grid = (0, 0)

    def enter(
        self, _module: nn.Module, inputs: Any, options: dict[str, Any]
    ) -> Any:
        """Cut ``(N, P + h·w + Q, C)`` to ``(N·windows, P + side² + Q, C)``."""
        tokens, *others = inputs
        area = self.grid[0] * self.grid[1]
        last = tokens.shape[1] - self.prefix - area
        parts = tokens.split([self.prefix, area, last], dim=1)
        tokens = self._in_windows(*parts).flatten(0, 1)
        rope = options.get('rope')
        if rope is not None:
            # One for each window, or for each of them and each head.
            rope = rope.reshape(-1, *rope.shape[-2:])
            patches, rest = rope[:, :area], rope[:, area:]
            rope = self._in_windows(rest[:, :0], patches, rest)
            rope = rope.transpose(0, 1).repeat(len(inputs[0]), 1, 1, 1)
            options = {**options, 'rope': rope}
        return (tokens, *others), options

    def leave(self, _module: nn.Module, inputs: Any, tokens: Tensor) -> Any:
        """Put the windows together again."""
        rows, columns = self._windows()
        tokens = tokens.unflatten(0, (-1, rows * columns))
        last = tokens.shape[2] - self.prefix - self.side**2
        first, patches, rest = tokens.split(
            [self.prefix, self.side**2, last], dim=2
        )
        patches = patches.unflatten(2, (self.side, self.side))
        patches = patches.unflatten(1, (rows, columns)).transpose(2, 3)
        patches = patches.flatten(3, 4).flatten(1, 2)
        patches = patches[:, : self.grid[0], : self.grid[1]].flatten(1, 2)
        return torch.cat([first.mean(1), patches, rest.mean(1)], dim=1)

    def _in_windows(
        self, first: Tensor, patches: Tensor, last: Tensor
    ) -> Tensor:
        """Return ``(N, windows, P + side² + Q, C)``: first, window, last."""
        windows = self._cut(patches)
        shared = (-1, windows.shape[1], -1, -1)
        first, last = (part[:, None].expand(shared) for part in (first, last))
        return torch.cat([first, windows, last], dim=2)

    def _windows(self) -> tuple[int, int]:
        rows, columns = (-(-length // self.side) for length in self.grid)
        return rows, columns

    def _cut(self, patches: Tensor) -> Tensor:
        """Cut ``(N, h·w, C)`` to ``(N, windows, side², C)``."""
        rows, columns = self._windows()
        side = self.side
        below, right = (
            count * side - length
            for count, length in zip((rows, columns), self.grid, strict=True)
        )
        image = patches.unflatten(1, self.grid)
        image = F.pad(image, (0, 0, 0, right, 0, below))
        image = image.unflatten(2, (columns, side)).unflatten(1, (rows, side))
        return image.transpose(2, 3).flatten(3, 4).flatten(1, 2)
