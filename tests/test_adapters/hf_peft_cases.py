"""A small net with layers of many kinds, and options of peft's methods."""

import pytest
import torch
from torch import Tensor, nn

from mmflora.adapters import adapted_layers, inject

pytest.importorskip('peft')

# Peft's defaults are for layers of a thousand channels.
OPTIONS = {
    'ADALORA': dict(init_r=6, target_r=2),
    'BOFT': dict(boft_block_size=4),
    'C3A': dict(block_size=4),
    'FOURIERFT': dict(n_frequency=20, scaling=5.0),
    'GRALORA': dict(r=4, gralora_k=2),
    'MISS': dict(r=4),
    'PSOFT': dict(r=4),
    'RANDLORA': dict(r=4, randlora_alpha=4),
    'ROAD': dict(group_size=4),
    'SHIRA': dict(r=2),
    'SUPERTUNING': dict(sparsity=0.9),
    'UNILORA': dict(theta_d_length=64),
    'VBLORA': dict(vector_length=4, num_vectors=16),
    'WAVEFT': dict(n_frequency=10),
}
TYPES = [
    *('ADALORA', 'BEFT', 'BOFT', 'C3A', 'DEFT', 'DELORA', 'FOURIERFT'),
    *('FROD', 'GLORA', 'GRALORA', 'HIRA', 'HRA', 'IA3', 'LILY'),
    *('LN_TUNING', 'LOHA', 'LOKR', 'LORA', 'MISS', 'OFT', 'OSF'),
    *('PEANUT', 'PSOFT', 'PVERA', 'RANDLORA', 'ROAD', 'SHIRA', 'SUPERTUNING'),
    *('TINYLORA', 'UNILORA', 'VBLORA', 'VERA', 'WAVEFT'),
]
CONVS = ['ADALORA', 'BOFT', 'HIRA', 'HRA', 'IA3', 'LOHA', 'LOKR', 'LORA']
# Peft itself computes in single precision within these.
SINGLE = ('C3A', 'DEFT', 'FOURIERFT', 'PSOFT')


class Net(nn.Module):
    """A convolution, a norm and three linear layers, one without bias."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Sequential(
            nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8, bias=False)
        )
        self.head = nn.Linear(8, 12)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images).mean((2, 3))
        return self.head(features + self.mlp(self.norm(features)))


def net(peft_type='LORA', seed=0) -> Net:
    """Return the net in the widest type that a method takes."""
    torch.manual_seed(seed)
    model = Net()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.to(torch.float32 if peft_type == 'PSOFT' else torch.float64)


def images(model, seed=5) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    values = torch.randn(4, 4, 6, 6, generator=source)
    return values.to(model.head.weight.dtype)


def config(peft_type, **options):
    return dict(
        type='HFPEFT',
        peft_type=peft_type,
        **(OPTIONS.get(peft_type, {}) | options),
    )


def adapt(model, peft_type, **options):
    """Adapt what a method can adapt; return the report."""
    return inject(model, config(peft_type, **options))


def randomise(model, seed=3):
    """Move what trains, away from the zeros of most starts."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=source)
                parameter.add_(noise.to(parameter), alpha=0.1)


def trained(peft_type, seed=0, **options):
    """Return an adapted net as if trained, in eval mode, and its images."""
    model = net(peft_type, seed)
    adapt(model, peft_type, **options)
    randomise(model)
    return model.eval(), images(model)


def adapter_keys(model):
    return [key for key in model.state_dict() if '.adapter.' in key]


def adapters(model):
    return {n: layer.adapter for n, layer in adapted_layers(model).items()}
