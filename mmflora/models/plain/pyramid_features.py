"""Maps of several scales from a plain transformer, without any other package.

Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection"
(ViTDet, 2022).  A copy of this file belongs beside a config that names
``SimplePyramid``; the config loads it from its own folder.  It needs torch,
timm and mmengine alone.
"""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from timm.layers import LayerNorm2d
from torch import Tensor, nn


# Several configs may each have a copy of this file.
@MODELS.register_module(force=True)
class SimplePyramid(BaseModule):
    """A neck that makes maps of several scales out of a transformer's.

    A plain transformer has one scale, that of its patches.  The pyramid
    rescales its map by transposed convolutions and max pooling, then takes
    each level to ``out_channels`` by a 1×1 and a 3×3 convolution, each with a
    norm over the channels, as ViTDet's code does.  Strides are those of the
    patch over ``scales``: 4, 8, 16 and 32 for a patch of 16.

    All of it is new: it trains, and checkpoints hold it.

    Args:
        in_channels: The transformer's width.  A number, or a list of one:
            all levels are made of one map, the last one's.  A list of as many
            as there are scales: each level is made of a map of its own, the
            outputs of several blocks, in their order.
        out_channels: Channels of all levels; ``None`` leaves the rescaled
            maps as they are, for heads with convolutions of their own.
        scales: The factors by which the levels are rescaled, powers of two,
            the largest first.
        num_outs: Levels that are returned; those beyond ``scales`` take every
            second position of the one before.  ``None``: as many as scales.
        halve_channels: Whether each doubling of the scale halves the
            channels, as in ViTDet; else the width stays, as in InternViT.
        init_cfg: As for any module of MMEngine.

    Raises:
        ValueError: If these do not go together.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        out_channels: int | None = 256,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        num_outs: int | None = None,
        halve_channels: bool = True,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if isinstance(in_channels, int):
            in_channels = [in_channels]
        self.in_channels = tuple(in_channels)
        self.num_outs = len(scales) if num_outs is None else num_outs
        _check(self.in_channels, tuple(scales), self.num_outs, halve_channels)
        widths = self.in_channels * (
            len(scales) if len(self.in_channels) == 1 else 1
        )
        self.out_channels = []
        for level, (width, scale) in enumerate(
            zip(widths, scales, strict=True), 1
        ):
            layers, width = _rescaling(width, scale, halve_channels)
            self.add_module(f'up{level}', layers)
            if out_channels is not None:
                self.add_module(f'out{level}', _output(width, out_channels))
            self.out_channels.append(out_channels or width)
        self.levels = len(self.out_channels)
        extra = self.num_outs - self.levels
        self.out_channels += self.out_channels[-1:] * extra
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d):
                # Keeps the signal's size: each output sees one position.
                nn.init.normal_(module.weight, std=module.in_channels**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return ``num_outs`` maps, ``(N, C_i, s_i · h, s_i · w)``.

        Args:
            inputs: The transformer's map, ``(N, C, h, w)``, or a sequence of
                as many as ``in_channels`` has.

        Raises:
            ValueError: If there are more or less maps, or of another width.
        """
        maps = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        widths = tuple(image.shape[1] for image in maps)
        if widths != self.in_channels:
            raise ValueError(
                f'SimplePyramid: in_channels={list(self.in_channels)}, but '
                f'the backbone gives {len(maps)} maps of {list(widths)} '
                'channels. Set in_channels to these, or out_indices of the '
                'backbone to one block for all levels or one for each level.'
            )
        weight = next(self.parameters(), maps[0])
        maps = [image.to(weight.dtype) for image in maps]
        if len(maps) == 1:
            maps *= self.levels
        outputs = []
        for level, image in enumerate(maps, 1):
            image = self.get_submodule(f'up{level}')(image)
            if f'out{level}' in self._modules:
                image = self.get_submodule(f'out{level}')(image)
            outputs.append(image)
        while len(outputs) < self.num_outs:
            outputs.append(F.max_pool2d(outputs[-1], kernel_size=1, stride=2))
        return tuple(output.contiguous() for output in outputs)


def _rescaling(
    width: int, scale: float, halve: bool
) -> tuple[nn.Sequential, int]:
    """Return layers that rescale a map, and the channels that it then has."""
    steps = round(math.log2(scale))
    layers: list[nn.Module] = []
    for step in range(steps):
        if step:
            layers += [LayerNorm2d(width), nn.GELU()]
        narrower = width // 2 if halve else width
        layers.append(nn.ConvTranspose2d(width, narrower, 2, 2))
        width = narrower
    if steps < 0:
        layers.append(nn.MaxPool2d(2**-steps, 2**-steps))
    return nn.Sequential(*layers), width


def _output(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, channels, 1, bias=False),
        LayerNorm2d(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        LayerNorm2d(channels),
    )


def _check(
    widths: tuple[int, ...],
    scales: tuple[float, ...],
    num_outs: int,
    halve: bool,
) -> None:
    if not scales or any(s <= 0 or math.log2(s) % 1 for s in scales):
        raise ValueError(
            'SimplePyramid: `scales` are powers of two such as '
            f'(4, 2, 1, 0.5), got {scales}.'
        )
    if len(widths) not in (1, len(scales)):
        raise ValueError(
            'SimplePyramid: `in_channels` is one width for all levels, or one '
            f'for each of the {len(scales)} scales, got {list(widths)}.'
        )
    if num_outs < len(scales):
        raise ValueError(
            f'SimplePyramid: num_outs={num_outs} is less than the '
            f'{len(scales)} levels of scales={scales}. Drop scales instead.'
        )
    largest = max(1, int(max(scales)))
    if halve and any(width % largest for width in widths):
        raise ValueError(
            f'SimplePyramid: in_channels={list(widths)} cannot be halved '
            f'down to 1/{largest}. Set halve_channels=False.'
        )
