"""A small model with every kind of layer, adaptable or not."""

import torch
from timm.layers import CondConv2d
from torch import nn

FLORA = dict(type='FLoRA', rank=2)


class Attention(nn.MultiheadAttention):
    """A subclass reads its weights without calling their layer as well."""


class Scaled(nn.Conv2d):
    """A subclass with a forward pass of its own."""

    def forward(self, inputs):
        return 2 * super().forward(inputs)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm2d(4)
        self.fc1 = nn.Linear(4, 8)
        self.fc2 = nn.Linear(8, 4)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, stride=4)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.table = nn.Embedding(5, 4)
        self.up = nn.ConvTranspose2d(4, 4, 2)
        self.attn = Attention(4, 2)
        self.wide = nn.MultiheadAttention(4, 2, kdim=3, vdim=3)
        self.bounded = nn.Embedding(5, 4, max_norm=1.0)
        self.scaled = Scaled(4, 4, 1)
        self.experts = CondConv2d(4, 4, 1)
        self.scales = nn.Parameter(torch.ones(4, 4))


ADAPTABLE = [
    'stem',
    *(
        f'blocks.{i}.{name}'
        for i in range(3)
        for name in ('conv', 'fc1', 'fc2')
    ),
    'table',
    'up',
    'attn',
    'attn.out_proj',
    'wide.out_proj',
    'scaled',
]
NO_BLOCK = [name for name in ADAPTABLE[1:] if not name.startswith('blocks')]
LEFT_OUT = {
    'bounded': 'max_norm',
    'experts': 'matrix of experts',
    'wide': 'not packed',
}
