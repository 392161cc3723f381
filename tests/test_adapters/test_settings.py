"""What a method is not told, and how it says so."""

import copy
import inspect
import re
import sys

import pytest
import torch
from torch import nn

from mmflora.adapters import (
    HFPEFT,
    Tuning,
    adapted_modules,
    inject,
    random_starts,
)
from mmflora.registry import ADAPTERS

NOT_FINITE = float('inf')
# Kind of method, setting, kind of error, what its text names.
BAD = [
    ('FLoRA', dict(scale='4'), TypeError, "scale='4'"),
    ('FLoRA', dict(scale=NOT_FINITE), ValueError, 'scale=inf'),
    ('FLoRA', dict(kernel_rank=0), ValueError, 'kernel_rank=0'),
    ('FLoRA', dict(kernelrank=2), TypeError, "Did you mean 'kernel_rank'?"),
    ('LoRA', dict(rank=[8]), ValueError, 'rank=[8]'),
    ('LoRA', dict(rnk=8), TypeError, "no setting 'rnk', got rnk=8"),
    ('LoRA', dict(rnk=8), TypeError, "Did you mean 'rank'?"),
    ('LoRA', dict(rnk=8), TypeError, 'settings are rank, alpha, form, rslora'),
    ('LoRA', dict(groups=2), TypeError, "no setting 'groups'"),
    ('LoRA', dict(alpha='16'), TypeError, "alpha='16'"),
    ('LoRA', dict(alpha=True), TypeError, 'alpha=True'),
    ('LoRA', dict(form=None), ValueError, 'one of spatial, loralib'),
    ('LoRA', dict(rslora='no'), TypeError, "True or False, got rslora='no'"),
    ('LoRA', dict(dropout='0.1'), ValueError, "dropout='0.1'"),
    ('LoRA', dict(dropout=-0.1), ValueError, 'dropout=-0.1'),
    ('LoRA', dict(path=None), ValueError, 'auto, folded, factored, dense'),
    ('DoRA', dict(transposed=2), TypeError, "no setting 'transposed'"),
    ('PiSSA', dict(rank='x'), ValueError, "rank='x'"),
    ('PiSSA', dict(iterations=1.5), ValueError, 'iterations=1.5'),
    ('PiSSA', dict(form='spatial'), TypeError, "no setting 'form'"),
    ('OLoRA', dict(iterations=4), TypeError, "no setting 'iterations'"),
    ('LoRAXS', dict(iterations=-1), ValueError, 'iterations=-1'),
    ('LoRAXS', dict(alpha=NOT_FINITE), ValueError, 'alpha=inf'),
    ('EVA', dict(rho=0.5), ValueError, 'rho=0.5'),
    ('LoRAGA', dict(gamma=-1.0), ValueError, 'gamma=-1.0'),
    ('SoKA', dict(energy=0), ValueError, 'energy=0'),
    ('SuperLoRA', dict(order=1), ValueError, 'from 2 to 8, got order=1'),
    ('SuperLoRA', dict(projection=2), ValueError, 'projection=2'),
    ('LoCA', dict(frequencies=0), ValueError, 'frequencies=0'),
    ('BlockLoRA', dict(blocks=3), ValueError, 'rank=8 and blocks=3'),
    ('SNELL', dict(rank=3), ValueError, 'even'),
    ('SNELLA', dict(sparsity=1.0), ValueError, 'sparsity=1.0'),
    ('QueryableLoRA', dict(atoms=0), ValueError, 'atoms=0'),
    ('QueryableLoRA', dict(dropout=0.1), TypeError, "no setting 'dropout'"),
    ('SSF', dict(shift='yes'), TypeError, "True or False, got shift='yes'"),
    ('SSF', dict(rank=4), TypeError, 'Its settings are shift.'),
    ('Houlsby', dict(scale=0), ValueError, 'scale=0'),
    ('Houlsby', dict(activation='tanh'), ValueError, "activation='tanh'"),
    ('Houlsby', dict(rank=4), TypeError, 'settings are width, activation'),
    ('Pfeiffer', dict(scale='big'), TypeError, "scale='big'"),
    ('Compacter', dict(phm_dim=3), ValueError, 'multiple of phm_dim=3'),
    ('AdaptFormer', dict(width=None), ValueError, 'width=None'),
    ('Mona', dict(dropout=1.0), ValueError, 'dropout=1.0'),
    ('LoRand', dict(kernel=0), ValueError, 'kernel=0'),
    ('RepAdapter', dict(rank=3), ValueError, 'Choose a multiple'),
]


def net():
    return nn.ModuleDict(dict(mlp=nn.Linear(4, 4)))


@pytest.mark.parametrize(
    ('kind', 'options', 'error', 'part'),
    BAD,
    ids=[f'{kind}: {options}, {part}' for kind, options, _, part in BAD],
)
def test_error_names_the_layer_the_value_and_the_remedy(
    kind, options, error, part
):
    model = net()
    with pytest.raises(error, match=re.escape(part)) as caught:
        inject(model, dict(type=kind) | options)
    message = str(caught.value)
    assert message.startswith("Layer 'mlp' (Linear, weight (4, 4)): ")
    assert kind in message
    assert not adapted_modules(model)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ('places', 'error', 'part'),
    [('(mlp', ValueError, 'no regular expression'), (3, TypeError, 'got 3')],
)
def test_places_that_are_no_pattern(places, error, part):
    with pytest.raises(error, match=part) as caught:
        inject(net(), dict(type='Houlsby', places=places))
    assert '`places`' in str(caught.value)


@pytest.mark.parametrize(
    ('kind', 'part'),
    [
        ('Flora', "Did you mean 'FLoRA'?"),
        ('pissa', "Did you mean 'PiSSA'?"),
        ('Nothing', 'Registered adapters: AdaptFormer, BitFit, '),
    ],
)
def test_unknown_method_names_the_nearest(kind, part):
    with pytest.raises(ValueError, match=re.escape(part)) as caught:
        inject(net(), dict(type=kind))
    assert f"'{kind}'" in str(caught.value)


def test_a_method_of_peft_is_named_as_such(monkeypatch):
    pytest.importorskip('peft')
    with pytest.raises(ValueError, match="'HFPEFT', peft_type='LOHA'") as one:
        inject(net(), dict(type='LoHa'))
    assert 'Did you mean' not in str(one.value)
    monkeypatch.setitem(sys.modules, 'peft', None)
    with pytest.raises(ValueError, match="Unknown adapter type 'LoHa'"):
        inject(net(), dict(type='LoHa'))


HUGE = 10**15
ODD = (-1, 0, 1e-30, float('nan'), NOT_FINITE, -NOT_FINITE, HUGE, 1e300)
VALUES = (*ODD, True, 'much', None, [], {})


def numbers_of(method):
    """Return a method's settings that are numbers, by their annotations."""
    if method is HFPEFT:
        return ['r', 'lora_alpha', 'lora_dropout']
    return [
        name
        for name, item in inspect.signature(method).parameters.items()
        if name not in method.from_layer
        and re.search(r'\b(int|float)\b', str(item.annotation))
    ]


# Methods for blocks of plain transformers alone.
IN_TRANSFORMERS = ('Rein', 'VPT')
SETTINGS = [
    (kind, name)
    for kind, method in sorted(ADAPTERS.module_dict.items())
    if not issubclass(method, Tuning)
    for name in numbers_of(method)
]


def test_every_method_with_numbers_is_tried():
    kinds = {kind for kind, _ in SETTINGS}
    assert ADAPTERS.module_dict.keys() - kinds == {
        *('BitFit', 'Full', 'NormTuning', 'SSF')
    }


class Whole(nn.Module):
    """A block of maps with a shortcut, or a model that has one."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x):
        return self.block(x) if hasattr(self, 'block') else x + self.mlp(x)


def part_for(kind):
    """Return a model, the place that a method finds in it, and an input."""
    model = nn.Sequential()
    maps = torch.randn(2, 6, 3, 3)
    if kind in ('Mona', 'SCT', 'Ladder', 'E3VA'):
        model = Whole(block=Whole(mlp=nn.Conv2d(6, 6, 1)))
        return model, 'block.mlp' if kind in ('Mona', 'SCT') else '', maps
    if kind == 'ConvAdapter':
        model.add_module('conv2', nn.Conv2d(6, 6, 1))
        return model, 'conv2', maps
    model.add_module('mlp', nn.Linear(6, 6))
    if kind in IN_TRANSFORMERS:
        block = nn.TransformerEncoderLayer(6, 1, 8)
        model.add_module('blocks', nn.Sequential(block))
        return model, 'blocks.0', torch.randn(1, 2, 6)
    return model, 'mlp', torch.randn(1, 2, 6)


@pytest.mark.parametrize(('kind', 'name'), SETTINGS)
@pytest.mark.parametrize('value', VALUES, ids=repr)
def test_a_setting_is_refused_or_gives_finite_numbers(kind, name, value):
    settings = dict(type=kind) | {name: value}
    if kind == 'HFPEFT':
        pytest.importorskip('peft')
        settings['peft_type'] = 'LORA'
    model, part, inputs = part_for(kind)
    forms = ['spatial', 'loralib'] if kind in ('LoRA', 'DoRA') else [None]
    for form in forms:
        own = copy.deepcopy(model)
        given = settings if form is None else settings | dict(form=form)
        try:
            inject(own, given)
        except (TypeError, ValueError) as error:
            assert f"'{part}'" in str(error)  # noqa: PT017
            continue
        random_starts(own)
        assert own(inputs).isfinite().all()
        adapter = own.get_submodule(part).adapter
        for parameter in adapter.parameters():
            nn.init.normal_(parameter, std=0.1)
        output = own(inputs)
        output.sum().backward()
        assert output.isfinite().all()
        for parameter in adapter.parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all()


def test_a_negative_alpha_of_pissa_starts_at_the_weight():
    layer = nn.Linear(4, 4).double()
    model = nn.Sequential(copy.deepcopy(layer))
    inject(model, dict(type='PiSSA', rank=2, alpha=-1))
    inputs = torch.randn(3, 4, dtype=torch.float64)
    assert torch.equal(model(inputs), layer(inputs))
    adapter = model[0].adapter
    u, s, vh = torch.linalg.svd(layer.weight)
    torch.testing.assert_close(
        adapter.scale * adapter.up @ adapter.down, (u[:, :2] * s[:2]) @ vh[:2]
    )
