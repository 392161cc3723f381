"""Checkpoints of before hold these texts, and are refused without them."""

import pytest
import torch
from torch import nn

from mmflora.adapters import (
    Adapter,
    AdapterBase,
    LoRA,
    adapted_modules,
    inject,
    tuned_parameters,
)
from mmflora.models.described_method import describe_method
from mmflora.registry import ADAPTERS

# As version 0.1.0 wrote them: settings, signatures, what a checkpoint holds.
WRITTEN = {
    'FLoRA': (
        {},
        [
            'conv: FLoRA(ranks=(6, 3, 2, 2), scale=4.0)',
            'mlp: FLoRA(ranks=(4, 6), scale=4.0)',
        ],
        '7d6ee3430ea5329d',
    ),
    'FLoRA, scale of an integer': (
        dict(rank=3, scale=2),
        [
            'conv: FLoRA(ranks=(3, 3, 2, 2), scale=2.0)',
            'mlp: FLoRA(ranks=(3, 3), scale=2.0)',
        ],
        '70abd1a8d6e560e7',
    ),
    'LoRA': (
        {},
        [
            'conv: LoRA(rank=8, scale=2.0, form=spatial)',
            'mlp: LoRA(rank=8, scale=2.0)',
        ],
        'f8ac44936f026085',
    ),
    'LoRA, loralib': (
        dict(rank=3, alpha=2, form='loralib'),
        [
            'conv: LoRA(rank=3, scale=0.6666666666666666, form=loralib)',
            'mlp: LoRA(rank=3, scale=0.6666666666666666)',
        ],
        '654572048cd10202',
    ),
    'LoRA, rs': (
        dict(rank=2, rslora=True, path='dense'),
        [
            'conv: LoRA(rank=2, scale=11.31370849898476, form=spatial)',
            'mlp: LoRA(rank=2, scale=11.31370849898476)',
        ],
        '2e1471eb171646af',
    ),
    'DoRA': (
        {},
        [
            'conv: DoRA(rank=8, scale=2.0, form=spatial)',
            'mlp: DoRA(rank=8, scale=2.0)',
        ],
        '17fc642474f94798',
    ),
    'PiSSA': (
        dict(rank=3, alpha=2.0, iterations=2),
        [
            'conv: PiSSA(rank=3, scale=0.6666666666666666, form=spatial)',
            'mlp: PiSSA(rank=3, scale=0.6666666666666666)',
        ],
        'c5040fba39a2e86a',
    ),
    'OLoRA': (
        {},
        [
            'conv: OLoRA(rank=8, scale=1.0, form=spatial)',
            'mlp: OLoRA(rank=8, scale=1.0)',
        ],
        'b34a8d8b3f9ff6c2',
    ),
    'LoRAXS': (
        dict(rank=3, alpha=5, iterations=1),
        [
            'conv: LoRAXS(rank=3, scale=1.6666666666666667)',
            'mlp: LoRAXS(rank=3, scale=1.6666666666666667)',
        ],
        '13403f15ab66dbf7',
    ),
    'SSF': (
        {},
        [
            'conv: SSF(channels=6, shift=True)',
            'mlp: SSF(channels=4, shift=False)',
        ],
        '8f4f974aaae0ef1d',
    ),
    'FacT': (
        dict(rank=3, scale=2),
        [
            'conv: FacT(rank=3, form=tt, scale=2.0)',
            'mlp: FacT(rank=3, form=tt, scale=2.0)',
        ],
        'd7eb78f10515c289',
    ),
    'FacT, tk': (
        dict(form='tk'),
        [
            'conv: FacT(rank=16, form=tk, scale=1.0)',
            'mlp: FacT(rank=16, form=tk, scale=1.0)',
        ],
        '4ea196bf3e9acf86',
    ),
    'LoTR': (
        {},
        [
            'conv: LoTR(rank=16, scale=1.0)',
            'mlp: LoTR(rank=16, scale=1.0)',
        ],
        '3798b533dca1c9e3',
    ),
    'FLoRA, started': (
        dict(start='weight'),
        [
            'conv: FLoRA(ranks=(6, 3, 2, 2), scale=4.0, start=weight)',
            'mlp: FLoRA(ranks=(4, 6), scale=4.0, start=weight)',
        ],
        '8c8736e7456ea00e',
    ),
    'FLoRA, from gradients': (
        dict(start='gradient'),
        [
            'conv: FLoRA(ranks=(6, 3, 2, 2), scale=4.0)',
            'mlp: FLoRA(ranks=(4, 6), scale=4.0)',
        ],
        '7d6ee3430ea5329d',
    ),
    'CorDA': (
        dict(mode='preserve'),
        [
            'conv: CorDA(rank=8, scale=1.0, form=spatial)',
            'mlp: CorDA(rank=8, scale=1.0)',
        ],
        '98352935a187d567',
    ),
    'LoRASB': (
        dict(rank=3, step=0.1),
        [
            'conv: LoRASB(rank=3, scale=1.0)',
            'mlp: LoRASB(rank=3, scale=1.0)',
        ],
        '469ca6041b52a63e',
    ),
    'EVA': (
        dict(rho=1.5),
        [
            'conv: EVA(rank=16, scale=1.0, form=spatial)',
            'mlp: EVA(rank=16, scale=1.0)',
        ],
        'f0ca47b2fbe4f54f',
    ),
    'LoRAGA': (
        dict(rank=4, gamma=8.0),
        [
            'conv: LoRAGA(rank=4, scale=8.0, form=spatial)',
            'mlp: LoRAGA(rank=4, scale=8.0)',
        ],
        '9b44c908ce7aa0ca',
    ),
    'SoKA': (
        dict(rank=3, energy=0.5, iterations=1),
        ['conv: SoKA(rank=3)', 'mlp: SoKA(rank=3)'],
        '97e8b6215d4540fb',
    ),
    'SVFit': (
        dict(rank=3, iterations=1),
        ['conv: SVFit(rank=3)', 'mlp: SVFit(rank=3)'],
        '18646cb019801903',
    ),
    'LoLDU': (
        dict(rank=2, alpha=3),
        ['conv: LoLDU(rank=2, scale=1.5)', 'mlp: LoLDU(rank=2, scale=1.5)'],
        '569f81e3d31b1118',
    ),
    'LIFT': (
        dict(rank=2, density=0.25),
        ['conv: LIFT(entries=40)', 'mlp: LIFT(entries=6)'],
        '6a92f6e5e3c2a944',
    ),
    'SaRA': (
        dict(budget=5),
        ['conv: SaRA(entries=5)', 'mlp: SaRA(entries=5)'],
        '31a218a0376961d1',
    ),
    'SuperLoRA': (
        dict(rank=3, order=2, projection=0.5),
        [
            'conv: SuperLoRA(rank=3, order=2, groups=1, '
            'projection=0.5, scale=1.0)',
            'mlp: SuperLoRA(rank=3, order=2, groups=1, '
            'projection=0.5, scale=1.0)',
        ],
        '649618263f59a6ce',
    ),
    'LoCA': (
        dict(frequencies=9),
        [
            'conv: LoCA(frequencies=9, scale=1.0)',
            'mlp: LoCA(frequencies=9, scale=1.0)',
        ],
        'a3cbe7ca831a8d19',
    ),
    'BlockLoRA': (
        dict(blocks=2),
        [
            'conv: BlockLoRA(rank=8, blocks=2, scale=2.0)',
            'mlp: BlockLoRA(rank=8, blocks=2, scale=2.0)',
        ],
        '3692bde61f3c867a',
    ),
    'SNELL': (
        dict(rank=4),
        [
            'conv: SNELL(rank=4, sparsity=0.9, scale=0.1)',
            'mlp: SNELL(rank=4, sparsity=0.9, scale=0.1)',
        ],
        '8840741786695bdc',
    ),
    'SNELLA': (
        dict(sparsity=0.5),
        [
            'conv: SNELLA(rank=16, sparsity=0.5, scale=0.1)',
            'mlp: SNELLA(rank=16, sparsity=0.5, scale=0.1)',
        ],
        'c6483895cfe1e441',
    ),
    'QueryableLoRA': (
        dict(rank=2, width=3),
        [
            'conv: QueryableLoRA(rank=2, atoms=8, width=3, scale=8.0)',
            'mlp: QueryableLoRA(rank=2, atoms=8, width=3, scale=8.0)',
        ],
        '95b131286caf1f7c',
    ),
    'MatryoshkaLoRA': (
        dict(rank=3, alpha=2),
        [
            'conv: MatryoshkaLoRA(rank=3, alpha=2.0, ranks=(1, 2, 3), '
            'rslora=True)',
            'mlp: MatryoshkaLoRA(rank=3, alpha=2.0, ranks=(1, 2, 3), '
            'rslora=True)',
        ],
        '3658f16c8ef6192a',
    ),
    'DyLoRA': (
        {},
        [
            'conv: DyLoRA(rank=8, scale=2.0, form=spatial)',
            'mlp: DyLoRA(rank=8, scale=2.0)',
        ],
        'f68c7f88d86e5d0b',
    ),
    'MatryoshkaFLoRA': (
        dict(rank=3),
        [
            'conv: MatryoshkaFLoRA(ranks=(3, 3, 2, 2), scale=4.0, '
            'nested=(1, 2, 3))',
            'mlp: MatryoshkaFLoRA(ranks=(3, 3), scale=4.0, nested=(1, 2, 3))',
        ],
        '008ac37e2632e550',
    ),
    'LotteryTicket': (
        {},
        ['conv: LotteryTicket(entries=8)', 'mlp: LotteryTicket(entries=1)'],
        'd5f8932e05b6c951',
    ),
    'GPS': (
        dict(per_neuron=2),
        ['conv: GPS(entries=12)', 'mlp: GPS(entries=8)'],
        'bb69a6de2bd3bab1',
    ),
    'SPT': (
        dict(rank=2),
        ['conv: SPT(rank=2, entries=66)', 'mlp: SPT(rank=2, entries=20)'],
        '52c23913bb41e61a',
    ),
    'S2FT': (
        dict(density=0.5, side='columns'),
        [
            'conv: S2FT(channels=1, side=columns)',
            'mlp: S2FT(channels=3, side=columns)',
        ],
        '7757cee1bcbab45f',
    ),
    'Houlsby': (
        dict(width=8, activation='relu', scale=2),
        ['mlp: Houlsby(channels=4, width=8, activation=relu, scale=2.0)'],
        '79599e2e36995d13',
    ),
    'Pfeiffer': (
        {},
        ['mlp: Pfeiffer(channels=4, width=64, activation=relu, scale=1.0)'],
        '900a592e88056080',
    ),
    'Compacter': (
        dict(width=8, phm_dim=2),
        [
            'mlp: Compacter(channels=4, width=8, activation=gelu, scale=1.0, '
            'phm_dim=2, rank=1)',
        ],
        '8deade0954efa0d2',
    ),
    'AdaptFormer': (
        {},
        ['mlp: AdaptFormer(channels=4, width=64, activation=relu, scale=0.1)'],
        '69b473f22fa7c53f',
    ),
    'MoSA': (
        {},
        [
            'mlp: MoSA(channels=4, width=64, activation=gelu, scale=0.1, '
            'parts=4)'
        ],
        '51caf6793d98fc17',
    ),
    'Rein': (
        dict(tokens=4, rank=2),
        ['blocks.0: Rein(channels=6, tokens=4, rank=2, prefix_tokens=1)'],
        'caad269803b20321',
    ),
    'VPT': (
        dict(tokens=4, form='shallow'),
        ['blocks.0: VPT(channels=6, tokens=4, form=shallow)'],
        'dcdd63d633db829d',
    ),
    'LoRand': (
        {},
        ['mlp: LoRand(channels=4, width=2, branches=2, kernel=8, scale=1.0)'],
        '673856521b77e260',
    ),
    'ConvAdapter': (
        dict(places='conv'),
        [
            'conv: ConvAdapter(channels=6, width=1, activation=gelu, '
            'sequential=False)'
        ],
        '79c20c4fd7b1a8ca',
    ),
    'RepAdapter': (
        {},
        ['mlp: RepAdapter(rank=8, groups=2, scale=1.0, with_bias=False)'],
        'c3f4891c461da680',
    ),
    'Mona': (
        {},
        ['block.mlp: Mona(channels=4, width=64)'],
        '8044bb6c2625a2f8',
    ),
    'Ladder': (
        {},
        [': Ladder(rungs=1, reduction=8, expansion=4)'],
        'ca08063612646f4f',
    ),
    'E3VA': (
        {},
        [': E3VA(adapters=1, rank=8)'],
        'c4943622ce026afb',
    ),
    'SCT': (
        {},
        ['block.mlp: SCT(channels=4, salient=4, scale=0.1)'],
        '64a5b743d6ad44cb',
    ),
    'BitFit': (
        {},
        ['conv.bias: BitFit()', 'norm.bias: BitFit()'],
        '3a46e16041d9134c',
    ),
    'Full': (
        {},
        [
            'conv.weight: Full()',
            'conv.bias: Full()',
            'norm.weight: Full()',
            'norm.bias: Full()',
            'mlp.weight: Full()',
        ],
        '015607a6fd174435',
    ),
    'NormTuning': (
        {},
        ['norm.weight: NormTuning()', 'norm.bias: NormTuning()'],
        'c2d31eda3e2d6c67',
    ),
    'HFPEFT': (
        dict(peft_type='lora', r=4, use_dora=True, lora_dropout=0.1),
        [
            'conv: HFPEFT(LORA, r=4, use_dora=True)',
            'mlp: HFPEFT(LORA, r=4, use_dora=True)',
        ],
        '50fe91d48f2b82a7',
    ),
}

# Methods for blocks of plain transformers alone.
IN_TRANSFORMERS = ('Rein', 'VPT')


def test_every_method_is_pinned():
    methods = {name.split(',')[0] for name in WRITTEN}
    assert methods == set(ADAPTERS.module_dict)


def model_for(method):
    model = nn.Sequential()
    model.add_module('conv', nn.Conv2d(3, 6, 3))
    model.add_module('norm', nn.LayerNorm(6))
    model.add_module('mlp', nn.Linear(6, 4, bias=False))
    if method in IN_TRANSFORMERS:
        block = nn.TransformerEncoderLayer(6, 1, 8)
        model.add_module('blocks', nn.Sequential(block))
    if method in (
        'Mona',
        'SCT',
        'Ladder',
        'E3VA',
    ):  # which look for a block around it
        return nn.ModuleDict(dict(block=nn.ModuleDict(model.named_children())))
    return model


@pytest.mark.parametrize(
    ('name', 'settings', 'lines', 'condensed'),
    [(name, *values) for name, values in WRITTEN.items()],
    ids=WRITTEN,
)
def test_signatures_of_old_checkpoints(
    name, settings, lines, condensed, monkeypatch
):
    method = name.split(',')[0]
    if method == 'HFPEFT':
        pytest.importorskip('peft')
    # What a printed model shows may change, what files hold may not.
    monkeypatch.setattr(AdapterBase, 'extra_repr', lambda _: '')
    model = model_for(method)
    targets = 'conv|mlp' if method == 'FLoRA' else '.*'
    inject(model, dict(type=method, **settings), targets)
    found = [
        f'{own}: {module.adapter.signature()}'
        for own, module in adapted_modules(model).items()
    ]
    found += [
        f'{own}: {tuning.signature()}'
        for own, tuning in tuned_parameters(model).items()
    ]
    assert found == lines
    described = describe_method(model, {}, '.*', (), None)
    assert described['signature'] == condensed


class Shift(Adapter):
    def extra_repr(self):
        return 'rank=3, base=2'


class WideLoRA(LoRA):
    def extra_repr(self):
        return f'{super().extra_repr()}, width=2'


class NewLoRA(WideLoRA):
    def meaning(self):
        return dict(rank=5)


@pytest.mark.parametrize(
    ('kind', 'written'),
    [
        (Shift, 'Shift(rank=3, base=2)'),
        (WideLoRA, 'WideLoRA(rank=8, scale=2.0, width=2)'),
        (NewLoRA, 'NewLoRA(rank=5)'),
    ],
)
def test_settings_told_by_extra_repr_alone_stay_in_the_signature(
    kind, written
):
    assert kind(torch.zeros(4, 6)).signature() == written


def test_another_order_of_the_patterns_is_another_meaning():
    def signature(targets):
        torch.manual_seed(0)
        net = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)])
        method = dict(type='SuperLoRA', groups=2)
        inject(net, method, targets)
        state = {key: value.shape for key, value in net.state_dict().items()}
        described = describe_method(net, method, targets, (), None)
        return described['signature'], state

    usual, state = signature('.*')
    assert signature(['0', '.*']) == (usual, state)
    other, same_shapes = signature(['0', '2', '.*'])
    assert same_shapes == state
    assert other != usual
