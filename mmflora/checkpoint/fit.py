"""Weights of a file, fitted to a model with every key accounted for."""

import logging
from collections.abc import Mapping
from itertools import chain
from math import prod
from typing import Any

from mmengine.logging import print_log
from timm.models import adapt_input_conv
from torch import Tensor, nn

from mmflora.adapters.quantized import QuantizedWeight
from mmflora.files.checksums import check_finite

from .keys import Shapes, compare_keys, float_shapes, matches_any
from .layouts.mismatch_hints import mismatch_hints

# Tensors whose size follows from that of the images, windows or patches.
_KERNELS = ('patch_embed.proj.weight',)
_RESIZED = (
    *('pos_embed', 'relative_position_bias_table', 'rel_pos_h', 'rel_pos_w'),
    *_KERNELS,
)


class Fit:
    """Fits the weights of a file to a model, and keeps what was done.

    Args:
        shapes: The model's shapes by key.
        optional: Patterns of these keys that the file may lack; one of
            another shape is left out, too.
        unused: Patterns of the file's keys that the model may lack.
    """

    def __init__(
        self,
        shapes: Shapes,
        optional: tuple[str, ...],
        unused: tuple[str, ...],
    ) -> None:
        self.shapes = shapes
        self.optional = optional
        self.unused = unused
        self.offered: dict[str, tuple[int, ...]] = {}
        self.remarks: list[str] = []

    def __call__(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights that the model is to load."""
        fitted = {}
        image_kernel = self._image_kernel(weights)
        for key, value in weights.items():
            wanted = self.shapes.get(key)
            if wanted is None and matches_any(self.unused, key):
                continue
            if key == image_kernel and wanted is not None:
                value = adapt_input_conv(wanted[1], value)
                self.remarks.append(
                    f'{key} taken from 3 to {wanted[1]} channels of an image '
                    "by timm's rule (repeated and scaled; summed for one)"
                )
            elif (
                wanted is not None
                and tuple(value.shape) != tuple(wanted)
                and matches_any(self.optional, key)
            ):
                self.remarks.append(left_out(key, tuple(value.shape), wanted))
                continue
            fitted[key] = value
        self.offered.update(float_shapes(fitted))
        return fitted

    def _image_kernel(self, weights: Mapping[str, Tensor]) -> str | None:
        """Return the only kernel that differs in an image's 3 channels."""
        found = []
        for key, value in weights.items():
            ours = tuple(self.shapes.get(key, ()))
            wanted = (*ours[:1], 3, *ours[2:])
            if len(ours) == 4 and tuple(value.shape) == wanted != ours:
                found.append(key)
        return found[0] if len(found) == 1 else None

    def note_resized(self, stored: Shapes) -> None:
        """Note which position embeddings and patches have been resized."""
        for part in _RESIZED:
            theirs, ours = (
                {
                    key: size
                    for key, size in shapes.items()
                    if key.endswith(part)
                }
                for shapes in (stored, self.offered)
            )
            pairs = [
                (theirs[key], ours[key]) for key in ours if key in theirs
            ] or list(zip(theirs.values(), ours.values(), strict=False))[:1]
            for old, new in pairs:
                sizes = (old[2:], new[2:]) if part in _KERNELS else (old, new)
                if prod(sizes[0]) != prod(sizes[1]):
                    self.remarks.append(f'{part} resized from {old} to {new}')
                    break

    def conclude(self, source: str, model: nn.Module) -> None:
        """Log what was done to the weights.

        Raises:
            ValueError: If they do not fit the model all the same.
        """
        report = compare_keys(
            self.offered, self.shapes, self.optional, self.unused
        )
        if report:
            hints = mismatch_hints(self.offered, self.shapes)
            raise misfit(source, model, f'{report}{hints}')
        say_remarks(source, model, self.remarks)


def check_base_finite(source: str, model: nn.Module, shapes: Shapes) -> None:
    """Refuse a base with NaN or infinity in it.

    Args:
        source: Where it came from.
        model: The model that holds it; quantized weights have been checked
            when they were rounded.
        shapes: The keys of the base.

    Raises:
        ValueError: If a value is not finite; names the first such tensor.
    """
    tensors = {
        name: tensor
        for name, tensor in chain(
            model.named_parameters(), model.named_buffers()
        )
        if name in shapes and not isinstance(tensor, QuantizedWeight)
    }
    check_finite(tensors, f"The base weights '{source}'")


def left_out(key: str, theirs: Any, ours: Any) -> str:
    """Say that a new parameter of another shape is not taken."""
    return f'{key} {theirs} of the file left out: it is new here, {ours}'


def say_remarks(source: str, model: nn.Module, remarks: list[str]) -> None:
    """Log what was done to the weights of a file."""
    if remarks:
        print_log(
            f"Base weights '{source}' for {type(model).__name__}: "
            + '; '.join(dict.fromkeys(remarks))
            + '.',
            logger='current',
            level=logging.WARNING,
        )


def misfit(source: str, model: nn.Module, report: str) -> ValueError:
    """Return an error: a base does not fit, what of it, and what to do."""
    return ValueError(
        f"The base weights '{source}' do not fit "
        f'{type(model).__name__}:\n{report}\n'
        'A base must fit in full. Check that the file is for this '
        'architecture and size and set `init_cfg.prefix` for a part of a '
        'larger model; parameters that no base holds are named by '
        '`new_params`, keys of the file without use by `unused_keys`.'
        + conversion_remedy(model)
    )


def conversion_remedy(model: nn.Module) -> str:
    """Name the option of a class that has its own conversion."""
    converts = getattr(model, 'convert_weights', None)
    if converts is None:
        return ''
    return (
        " Tell the class whether the file has its authors' keys: "
        f'`convert_weights`, {converts} here.'
    )
