"""Every method, small, and which layers of the case table it leaves out."""

import torch
from layer_cases import CASES
from torch import nn

from mmflora.adapters import adapted_modules, inject, random_starts

# Weight adapters: settings that no default hides.
WEIGHT_METHODS = {
    'FLoRA': dict(type='FLoRA', rank=3, scale=0.5),
    'LoRA': dict(type='LoRA', rank=2, alpha=3.0),
    'LoRA, loralib': dict(type='LoRA', rank=2, alpha=3.0, form='loralib'),
    'LoRA, rs': dict(type='LoRA', rank=2, alpha=3.0, rslora=True),
    'DoRA': dict(type='DoRA', rank=2, alpha=3.0),
    'DoRA, loralib': dict(type='DoRA', rank=2, alpha=3.0, form='loralib'),
    'PiSSA': dict(type='PiSSA', rank=2, alpha=3.0),
    'PiSSA, iterated': dict(type='PiSSA', rank=2, iterations=4),
    'OLoRA': dict(type='OLoRA', rank=2, alpha=3.0),
    'FLoRA, weight': dict(type='FLoRA', rank=3, scale=0.5, start='weight'),
    'FLoRA, gradient': dict(type='FLoRA', rank=3, scale=0.5, start='gradient'),
    'CorDA': dict(type='CorDA', rank=2, alpha=3.0),
    'LoRA-SB': dict(type='LoRASB', rank=2, step=0.1),
    'EVA': dict(type='EVA', rank=3, alpha=2.0, rho=1.0),
    'LoRA-GA': dict(type='LoRAGA', rank=2, alpha=3.0, gamma=2.0),
    'SVFit': dict(type='SVFit', rank=3),
    'LoLDU': dict(type='LoLDU', rank=3, alpha=1.5),
    'SoKA': dict(type='SoKA', rank=3),
    'LoRA-XS': dict(type='LoRAXS', rank=2, alpha=3.0),
    'SSF': dict(type='SSF'),
    'FacT': dict(type='FacT', rank=3, scale=0.5),
    'FacT, tk': dict(type='FacT', rank=3, form='tk', scale=0.5),
    'LoTR': dict(type='LoTR', rank=3, scale=0.5),
    'LIFT': dict(type='LIFT', rank=2, density=0.2),
    'SaRA': dict(type='SaRA', density=0.3),
    'SuperLoRA': dict(type='SuperLoRA', rank=3, scale=0.5),
    'SuperLoRA, projected': dict(
        type='SuperLoRA', rank=3, order=2, projection=0.3
    ),
    'LoCA': dict(type='LoCA', frequencies=5, scale=0.5),
    'BlockLoRA': dict(type='BlockLoRA', rank=4, blocks=2, alpha=3.0),
    'SNELL': dict(type='SNELL', rank=4, sparsity=0.4),
    'SNELLA': dict(type='SNELLA', rank=4, sparsity=0.4),
    'Matryoshka': dict(type='MatryoshkaLoRA', rank=3, alpha=1.5),
    'DyLoRA': dict(type='DyLoRA', rank=3, alpha=1.5),
    'Matryoshka FLoRA': dict(type='MatryoshkaFLoRA', rank=3, scale=0.5),
    'RepAdapter': dict(type='RepAdapter', rank=4, groups=1, scale=0.5),
    'GPS': dict(type='GPS', per_neuron=1),
    'SPT': dict(type='SPT', rank=2, density=0.1),
    'SPT, LoRA': dict(type='SPT', rank=1, density=0.9),
    'S2FT': dict(type='S2FT', density=0.4),
    'LotteryTicket': dict(type='LotteryTicket', density=0.3),
    'S2FT, columns': dict(type='S2FT', budget=1, side='columns'),
}
TUNINGS = {
    'Full': dict(type='Full'),
    'BitFit': dict(type='BitFit'),
    'NormTuning': dict(type='NormTuning'),
}
BLOCK_METHODS = {
    'Houlsby': dict(type='Houlsby', width=8),
    'Pfeiffer': dict(type='Pfeiffer', width=8),
    'AdaptFormer': dict(type='AdaptFormer', width=8, scale=0.5),
    'LoRand': dict(type='LoRand', branches=2, kernel=3),
}
# Not bottlenecks behind or beside a block.
OTHER_BLOCKS = {
    'Mona': dict(type='Mona', width=4, dropout=0.0),
}
METHODS = WEIGHT_METHODS | TUNINGS | BLOCK_METHODS | OTHER_BLOCKS
# Methods that do not start at the frozen layer.
MOVED = ('LoRA-SB', 'SNELL', 'SNELLA')
# Methods whose update has few entries, and one path.
SPARSE = (
    'LotteryTicket',
    'LIFT',
    'SaRA',
    'GPS',
    'SPT',
    'SPT, LoRA',
    'S2FT',
    'S2FT, columns',
)
# Methods without dropout, and with one path.
ONE_PATH = ('SSF', 'RepAdapter')
# Methods that scale the output of the frozen layer round differently.
ROUNDS = ('DoRA', 'SSF')


def left_out(method: str, case: str) -> str:
    """Return a word of the reason for which a layer is left out, or ''."""
    layer = CASES[case].build()
    kernel = layer.weight.shape[2:] if hasattr(layer, 'weight') else ()
    if method.endswith('loralib') and kernel:
        square = len(kernel) == 2 and kernel[0] == kernel[1]
        transposed = isinstance(layer, nn.ConvTranspose2d)
        return '' if square and not transposed else 'square'
    plain = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    own = 'weight' in layer._parameters
    if method in ('CorDA', 'EVA') and not (own and type(layer) in plain):
        return 'second moment'
    if method == 'RepAdapter':
        if getattr(layer, 'groups', 1) != 1:
            return 'groups'
        if isinstance(layer, nn.Embedding):
            return 'channels'
        return ''
    if method == 'SSF' and isinstance(layer, nn.Embedding):
        return 'embedding'
    return ''


def adapt(layer: nn.Module, settings: dict, **options) -> nn.Module:
    """Adapt one layer through the injector."""
    model = nn.ModuleDict(dict(layer=layer))
    inject(model, settings | options, 'layer')
    random_starts(model)
    return layer


def randomise(layer: nn.Module, spread: float = 0.5) -> nn.Module:
    """Move every parameter of the adapters away from its start."""
    with torch.no_grad():
        for module in adapted_modules(layer).values():
            for parameter in module.adapter.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=spread)
    return layer
