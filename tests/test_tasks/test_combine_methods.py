"""Weighted sums of every method that has them, and what has none."""

import copy

import pytest
import torch

from mmflora.adapter_files import apply_adapter, read_adapter, write_adapter
from mmflora.adapters import SSF, adapted_layers, random_starts
from mmflora.checkpoint.record import base_records
from mmflora.tasks import combine_adapters

from .conftest import adapter_of

LORA = dict(type='LoRA', rank=3, alpha=6)
FLORA = dict(type='FLoRA', rank=4, scale=4.0)
METHODS = {
    'flora': (FLORA, dict(FLORA, rank=2, scale=0.5)),
    'three floras': (
        dict(FLORA, rank=3),
        dict(FLORA, scale=0.5),
        dict(FLORA, rank=2, scale=1.0),
    ),
    'lora': (LORA, dict(LORA, rank=2)),
    # Ranks beyond the depthwise kernels' and the stem's size.
    'lora clipped': (dict(LORA, rank=20), dict(LORA, rank=30)),
    'lora rslora': (dict(LORA, rslora=True), dict(LORA, alpha=1)),
    'loralib': (dict(LORA, form='loralib'),) * 2,
    'pissa': (dict(type='PiSSA', rank=3), dict(type='PiSSA', rank=2)),
    'flora weight': (
        dict(FLORA, start='weight'),
        dict(FLORA, rank=2, start='weight'),
    ),
    'corda': (dict(type='CorDA', rank=3), dict(type='CorDA', rank=2)),
    'eva': (dict(type='EVA', rank=3), dict(type='EVA', rank=2, rho=1.0)),
    'lora-ga': (dict(type='LoRAGA', rank=3), dict(type='LoRAGA', rank=2)),
    'olora': (dict(type='OLoRA', rank=3, alpha=2),) * 2,
    'lora-xs': (dict(type='LoRAXS', rank=4),) * 2,
    'svfit': (dict(type='SVFit', rank=4),) * 2,
    'ssf': (dict(type='SSF'),) * 2,
    'lift': (
        dict(type='LIFT', rank=2, density=0.2),
        dict(type='LIFT', rank=4, density=0.1),
    ),
    'sara': (dict(type='SaRA', density=0.6), dict(type='SaRA', density=0.7)),
    'sara budget': (dict(type='SaRA', budget=3),) * 2,
    's2ft': (dict(type='S2FT', density=0.4), dict(type='S2FT', density=0.5)),
    's2ft columns': (
        dict(type='S2FT', density=0.4, side='columns', choose='largest'),
    )
    * 2,
    'peft lora': (
        dict(type='HFPEFT', peft_type='LORA', r=3, lora_alpha=6),
        dict(type='HFPEFT', peft_type='LORA', r=2, use_rslora=True),
    ),
}
FROM_DATA = ('CorDA', 'EVA', 'LoRAGA')
MLP = r'stages\.\d\.blocks\.\d\.mlp\.fc\d'
MIXED = {MLP: {}, r'stem\.0': dict(type='Full')}


@torch.no_grad()
def changes(model):
    """Return all that is added to the base's weights and biases."""
    found = {}
    for name, layer in adapted_layers(model).items():
        found[name] = layer.delta_weight().double()
        bias = layer.base_bias()
        if isinstance(layer.adapter, SSF) and bias is not None:
            found[f'{name}.bias'] = layer.adapter.adapted_bias(bias) - bias
    return found


def randomised(build, seed, adapter, **options):
    """Build a model whose adapters have any values, the frozen ones kept."""
    model = build(seed, adapter=adapter, **options)
    random_starts(model)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            if adapter['type'] in FROM_DATA:
                layer.adapter.up.add_(torch.randn_like(layer.adapter.up))
            if adapter['type'] == 'SSF':
                layer.adapter.scale.add_(1)
    return model


@pytest.mark.parametrize('pair', METHODS.values(), ids=METHODS)
@pytest.mark.parametrize('weights', [(0.5, 0.5), (1.5, -0.25)])
def test_sum_of_updates(toy, tmp_path, pair, weights):
    peft = pair[0]['type'] == 'HFPEFT'
    options = dict(targets=MLP) if peft else {}
    if pair[0]['type'] in FROM_DATA:
        options = dict(calibration=dict(batches=1))
    models = [
        randomised(toy, seed, adapter, **options)
        for seed, adapter in enumerate(pair)
    ]
    weights = (*weights, 0.1)[: len(models)]
    combined = combine_adapters([adapter_of(m) for m in models], weights)
    settings = combined.backbone()['method']['adapter']
    read = read_adapter(write_adapter(combined, tmp_path / 'sum'))
    model = apply_adapter(toy(9, adapter=settings, **options), read)
    parts = [changes(part) for part in models]
    total = changes(model)
    assert len(total) >= 8
    for name, delta in total.items():
        expected = sum(
            weight * part[name]
            for weight, part in zip(weights, parts, strict=True)
        )
        assert expected.abs().max() > 1e-3, name
        torch.testing.assert_close(
            delta.double(), expected.double(), rtol=1e-4, atol=1e-4, msg=name
        )


@pytest.mark.parametrize('method', ['BitFit', 'NormTuning', 'Full'])
def test_mean_of_tuned_parameters(toy, method):
    models = [toy(seed, adapter=dict(type=method)) for seed in (1, 2)]
    adapters = [adapter_of(model) for model in models]
    combined = combine_adapters(adapters, (0.25, 0.75))
    model = apply_adapter(toy(9, adapter=dict(type=method)), combined)
    ((_, record),) = base_records(model).values()
    assert record.tuned_keys
    for key in record.tuned_keys:
        one, two, mean = (
            m.backbone.get_parameter(key) for m in (*models, model)
        )
        torch.testing.assert_close(mean, 0.25 * one + 0.75 * two)
    assert torch.equal(model.head.weight, models[0].head.weight)
    with pytest.raises(ValueError, match='Give weights whose sum is 1'):
        combine_adapters(adapters, (1.0, 1.0))


def test_mixed_methods(toy):
    """The order of overlapping patterns survives the file."""
    targets = {r'stem\..*': dict(type='Full'), r's.*\.0': {}}
    models = [toy(s, adapter=LORA, targets=targets) for s in (1, 2)]
    combined = combine_adapters([adapter_of(m) for m in models], (0.5, 0.5))
    method = combined.backbone()['method']
    assert method['targets'] == {
        r'stem\..*': dict(type='Full'),
        r's.*\.0': dict(rank=6),
    }
    model = toy(9, adapter=method['adapter'], targets=method['targets'])
    apply_adapter(model, combined)
    parts = [changes(part) for part in models]
    for name, delta in changes(model).items():
        expected = 0.5 * (parts[0][name] + parts[1][name])
        torch.testing.assert_close(delta, expected, rtol=1e-4, atol=1e-4)
    stem = [m.backbone.stem[0].weight for m in (*models, model)]
    torch.testing.assert_close(stem[2], 0.5 * (stem[0] + stem[1]))


@pytest.mark.parametrize(
    ('adapter', 'options', 'message'),
    [
        (dict(type='DoRA', rank=2), {}, 'DoRA. A weighted sum'),
        (
            dict(type='HFPEFT', peft_type='LOHA', r=2),
            dict(targets=MLP),
            'HFPEFT LOHA. A weighted sum',
        ),
        (
            dict(type='HFPEFT', peft_type='LORA', r=2, use_dora=True),
            dict(targets=MLP),
            'use_dora divides by norms',
        ),
        (dict(type='FacT', rank=2), {}, 'FacT. A weighted sum'),
        (
            dict(type='Houlsby', width=2),
            dict(targets='.*'),
            'Houlsby. A weighted sum',
        ),
    ],
    ids=['dora', 'loha', 'peft dora', 'fact', 'houlsby'],
)
def test_methods_without_sums(toy, adapter, options, message):
    one = adapter_of(toy(1, adapter=adapter, **options))
    with pytest.raises(ValueError, match=message):
        combine_adapters([one, one], (0.5, 0.5))


def test_different_methods_and_forms_have_no_sum(toy):
    lora = adapter_of(toy(1, adapter=LORA))
    other = adapter_of(toy(2, adapter=dict(type='FLoRA', rank=3)))
    with pytest.raises(ValueError, match="methods .*'FLoRA', 'LoRA'"):
        combine_adapters([lora, other], (0.5, 0.5))
    loralib = adapter_of(toy(2, adapter=dict(LORA, form='loralib')))
    with pytest.raises(ValueError, match="forms .*'loralib', 'spatial'"):
        combine_adapters([lora, loralib], (0.5, 0.5))
    xs = [
        adapter_of(toy(s, adapter=dict(type='LoRAXS', rank=r)))
        for s, r in ((1, 2), (2, 3))
    ]
    with pytest.raises(ValueError, match=r'ranks \[2, 3\]'):
        combine_adapters(xs, (0.5, 0.5))
    turned = copy.deepcopy(xs[0])
    key = next(k for k in turned.tensors if k.endswith('adapter.left'))
    turned.tensors[key] = -turned.tensors[key]
    with pytest.raises(ValueError, match='different singular vectors'):
        combine_adapters([xs[0], turned], (0.5, 0.5))
