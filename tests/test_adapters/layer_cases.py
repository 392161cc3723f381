"""Every kind of layer that can be adapted, with each of its options."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import timm.layers
import torch
from mmcv.cnn.bricks import ConvAWS2d
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack
from torch import Tensor, nn

from mmflora.adapters import FLoRA, adapt_layer
from mmflora.adapters.layer_weights import weight_name

PATHS = ('folded', 'factored', 'dense', 'auto')


@dataclass
class Case:
    """A layer and its input; sizes differ, so that no mix-up goes unseen."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    read: bool = False

    def stock(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        return self.build().to(dtype).requires_grad_(False)

    def adapted(self, dtype=torch.float64, spread=0.5, **options) -> nn.Module:
        """Return the layer with an adapter of random entries."""
        return self.adapt(self.stock(dtype), spread, **options)

    def adapt(self, layer: nn.Module, spread=0.5, **options) -> nn.Module:
        options = dict(rank=3, scale=0.5) | options
        update = FLoRA(getattr(layer, weight_name(layer)), **options)
        adapt_layer(layer, update, read=self.read)
        for parameter in layer.adapter.parameters():
            nn.init.normal_(parameter, std=spread)
        return layer

    def inputs(self, dtype: torch.dtype = torch.float64) -> Tensor:
        if self.build().__class__ is nn.Embedding:
            return torch.randint(7, self.shape)
        return torch.randn(self.shape, dtype=dtype)


def call(layer: nn.Module, inputs: Tensor, function=None) -> Tensor:
    """Return a layer's output, of an attention layer the values."""
    function = function or layer
    if isinstance(layer, nn.MultiheadAttention):
        return function(inputs, inputs, inputs)[0]
    return function(inputs)


def linear(shape=(2, 5, 6), outputs=8, read=False, **options):
    return Case(partial(nn.Linear, 6, outputs, **options), shape, read)


def conv1d(inputs=6, outputs=8, kernel=3, shape=(2, 6, 9), **options):
    return Case(partial(nn.Conv1d, inputs, outputs, kernel, **options), shape)


def conv(inputs=6, outputs=8, kernel=3, shape=(2, 6, 9, 8), **options):
    return Case(partial(nn.Conv2d, inputs, outputs, kernel, **options), shape)


def conv3d(outputs=8, kernel=3, **options):
    return Case(
        partial(nn.Conv3d, 6, outputs, kernel, **options), (2, 6, 7, 6, 5)
    )


def transposed(dims=2, kernel=3, shape=None, outputs=8, **options):
    kind = getattr(nn, f'ConvTranspose{dims}d')
    return Case(
        partial(kind, 6, outputs, kernel, **options),
        shape or (2, 6, 5, 4, 3)[: dims + 2],
    )


def deformable(kind: type, groups: int = 1) -> nn.Module:
    """Return a convolution whose offsets are not zero."""
    layer = kind(6, 8, 3, padding=1, groups=groups)
    nn.init.normal_(layer.conv_offset.weight, std=0.05)
    return layer


@torch.no_grad()
def weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return nn.utils.weight_norm(nn.ConvTranspose2d(6, 8, 3), dim=1)


def spectral_normed() -> nn.Module:
    """Return a layer whose estimate of the norm does not move."""
    return nn.utils.spectral_norm(nn.Linear(6, 8)).eval()


CASES = {
    'linear': linear(),
    'linear, one row each': linear((4, 6)),
    'linear, unbatched': linear((6,)),
    'linear, empty batch': linear((0, 5, 6)),
    'linear, no bias': linear(bias=False),
    'linear, narrow': linear(outputs=2),
    'linear, read by its parent': linear(read=True),
    'conv1d': conv1d(),
    'conv1d, options': conv1d(stride=2, padding=2, dilation=2, bias=False),
    'conv1d, same reflect': conv1d(
        kernel=4, padding='same', padding_mode='reflect'
    ),
    'conv1d, depthwise': conv1d(6, 12, groups=6, stride=2),
    'conv1d, unbatched': conv1d(shape=(6, 9)),
    'conv': conv(),
    'conv, 1x1': conv(kernel=1),
    'conv, stride': conv(stride=(2, 3)),
    'conv, tuple padding': conv(padding=(2, 1)),
    'conv, same': conv(kernel=(4, 3), padding='same', dilation=(1, 2)),
    'conv, valid': conv(padding='valid'),
    'conv, dilation': conv(dilation=(2, 1), padding=2),
    'conv, groups': conv(groups=2, padding=1),
    'conv, depthwise': conv(6, 6, kernel=5, groups=6, padding=2),
    'conv, depthwise twofold': conv(6, 12, groups=6, stride=2, padding=1),
    'conv, depthwise dilated': conv(
        6, 6, kernel=(2, 3), groups=6, stride=(3, 2), dilation=(1, 2)
    ),
    'conv, depthwise same': conv(6, 6, kernel=4, groups=6, padding='same'),
    'conv, depthwise unbatched': conv(6, 6, groups=6, shape=(6, 9, 8)),
    'conv, non-square': conv(kernel=(5, 2)),
    'conv, no bias': conv(bias=False),
    'conv, reflect': conv(padding=(1, 2), padding_mode='reflect'),
    'conv, circular': conv(padding=(2, 1), padding_mode='circular'),
    'conv, replicate same': conv(
        kernel=(2, 5), padding='same', padding_mode='replicate'
    ),
    'conv, unbatched': conv(shape=(6, 9, 8)),
    'conv, empty batch': conv(shape=(0, 6, 9, 8)),
    'conv3d': conv3d(),
    'conv3d, options': conv3d(
        kernel=(1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 2), groups=2
    ),
    'conv3d, depthwise': conv3d(6, groups=6, padding='same'),
    'transposed 1d': transposed(1),
    'transposed 2d': transposed(2),
    'transposed 2d, options': transposed(
        2,
        kernel=(3, 2),
        stride=(2, 3),
        padding=1,
        output_padding=(1, 0),
        dilation=(1, 2),
    ),
    'transposed 2d, groups': transposed(2, groups=2, bias=False),
    'transposed 2d, depthwise': transposed(2, outputs=6, groups=6),
    'transposed 2d, unbatched': transposed(2, shape=(6, 5, 4)),
    'transposed 3d': transposed(3, kernel=2, stride=2),
    'embedding': Case(partial(nn.Embedding, 7, 8), (2, 5)),
    'embedding, one index': Case(partial(nn.Embedding, 7, 8), ()),
    'embedding, padding': Case(
        partial(nn.Embedding, 7, 8, padding_idx=2), (4, 5)
    ),
    'embedding, by frequency': Case(
        partial(nn.Embedding, 7, 8, scale_grad_by_freq=True), (4, 5)
    ),
    'attention': Case(
        partial(nn.MultiheadAttention, 6, 2, batch_first=True), (2, 5, 6)
    ),
    'attention, no bias': Case(
        partial(nn.MultiheadAttention, 6, 3, bias=False, add_bias_kv=True),
        (5, 2, 6),
    ),
    'attention, unbatched': Case(partial(nn.MultiheadAttention, 6, 2), (5, 6)),
}
CASES |= {
    'padding of its own': Case(
        partial(timm.layers.Conv2dSame, 6, 8, 3, stride=2), (2, 6, 9, 8)
    ),
    'standardized, groups': Case(
        partial(timm.layers.StdConv2d, 6, 8, 3, groups=2, bias=True),
        (2, 6, 9, 8),
    ),
    'standardized and scaled': Case(
        partial(timm.layers.ScaledStdConv2d, 6, 8, (3, 2)), (2, 6, 9, 8)
    ),
    'standardized, with buffers': Case(
        partial(ConvAWS2d, 6, 8, 3), (2, 6, 9, 8)
    ),
    'deformable, groups': Case(
        partial(deformable, DeformConv2dPack, groups=2), (2, 6, 9, 8)
    ),
    'deformable, modulated': Case(
        partial(deformable, ModulatedDeformConv2dPack), (2, 6, 9, 8)
    ),
    'weight norm': Case(weight_normed, (2, 6, 9, 8)),
    'spectral norm': Case(spectral_normed, (2, 5, 6)),
    'conv groups, read by its parent': Case(
        partial(nn.Conv2d, 6, 8, 3, groups=2), (2, 6, 9, 8), True
    ),
    'embedding, read by its parent': Case(
        partial(nn.Embedding, 7, 8), (2, 5), True
    ),
}
# Operators of mmcv, which know neither bfloat16 nor tensors without values.
DEFORMABLE = {name for name in CASES if 'deformable' in name}
EMPTY = {name for name in CASES if 'empty' in name}
