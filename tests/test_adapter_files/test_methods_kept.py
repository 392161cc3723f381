"""Every method's adapter survives export and import, and can be compared."""

import pytest
import torch
from mmengine.config import Config
from test_engine.toy import ToyModel, adapter_of, backbone_cfg

from mmflora.adapter_files import (
    apply_adapter,
    read_adapter,
    to_checkpoint,
    write_adapter,
)
from mmflora.adapter_files.compare import (
    compare_adapters,
    difference_table,
    draw_differences,
)
from mmflora.adapter_files.compare_models import compare_models
from mmflora.adapter_files.statistics import statistics_of
from mmflora.adapter_files.stored_updates import stored_updates
from mmflora.adapters import adapted_layers, random_starts
from mmflora.adapters.update_statistics import update_statistics
from mmflora.checkpoint.record import base_records

MLP = r'stages\.\d\.blocks\.\d\.mlp\.fc\d'
LORA = dict(type='LoRA', rank=3)
METHODS = {
    'flora': dict(adapter=dict(type='FLoRA', rank=3)),
    'lora': dict(adapter=LORA),
    'loralib': dict(adapter=dict(LORA, form='loralib')),
    'pissa': dict(adapter=dict(type='PiSSA', rank=3)),
    'olora': dict(adapter=dict(type='OLoRA', rank=3)),
    'lora-xs': dict(adapter=dict(type='LoRAXS', rank=3)),
    'soka': dict(adapter=dict(type='SoKA', rank=3)),
    'svfit': dict(adapter=dict(type='SVFit', rank=3)),
    'loldu': dict(adapter=dict(type='LoLDU', rank=3)),
    'corda': dict(
        adapter=dict(type='CorDA', rank=3), calibration=dict(batches=1)
    ),
    'eva': dict(adapter=dict(type='EVA'), calibration=dict(batches=1)),
    'lora-ga': dict(
        adapter=dict(type='LoRAGA', rank=3), calibration=dict(batches=1)
    ),
    'flora weight': dict(adapter=dict(type='FLoRA', rank=3, start='weight')),
    'fact': dict(adapter=dict(type='FacT', rank=3, form='tk')),
    'lift': dict(adapter=dict(type='LIFT', rank=3)),
    'sara': dict(adapter=dict(type='SaRA')),
    'superlora': dict(adapter=dict(type='SuperLoRA', rank=3)),
    'loca': dict(adapter=dict(type='LoCA', frequencies=9)),
    'block lora': dict(adapter=dict(type='BlockLoRA', rank=4, blocks=2)),
    'snella': dict(adapter=dict(type='SNELLA', rank=4, sparsity=0.5)),
    'matryoshka': dict(adapter=dict(type='MatryoshkaLoRA', rank=3)),
    'dylora': dict(adapter=dict(type='DyLoRA', rank=3)),
    'matryoshka flora': dict(adapter=dict(type='MatryoshkaFLoRA', rank=3)),
    's2ft': dict(adapter=dict(type='S2FT', side='columns')),
    'gps': dict(adapter=dict(type='GPS'), calibration=dict(batches=1)),
    'spt': dict(
        adapter=dict(type='SPT', rank=1, density=0.2),
        calibration=dict(batches=1),
    ),
    'dora': dict(adapter=dict(type='DoRA', rank=3)),
    'ssf': dict(adapter=dict(type='SSF')),
    'bitfit': dict(adapter=dict(type='BitFit')),
    'norms': dict(adapter=dict(type='NormTuning')),
    'full': dict(adapter=dict(type='Full')),
    'mixed': dict(
        adapter=LORA, targets={r'.*\.conv_dw': dict(type='Full'), '.*': {}}
    ),
    'peft lora': dict(
        adapter=dict(type='HFPEFT', peft_type='LORA', r=3), targets=MLP
    ),
    'loha': dict(
        adapter=dict(type='HFPEFT', peft_type='LOHA', r=3), targets=MLP
    ),
    # Its projections are shared by all layers, and stand in the first.
    'vera': dict(
        adapter=dict(type='HFPEFT', peft_type='VERA', r=3), targets=MLP
    ),
    'compacter': dict(adapter=dict(type='Compacter', width=4, phm_dim=2)),
    'houlsby': dict(adapter=dict(type='Houlsby', width=3)),
    'ladder': dict(adapter=dict(type='Ladder', reduction=2)),
    'e3va': dict(adapter=dict(type='E3VA', rank=2)),
    'sct': dict(
        adapter=dict(type='SCT', salient=3), calibration=dict(batches=1)
    ),
    'mona': dict(adapter=dict(type='Mona', width=3)),
    'rep-adapter': dict(adapter=dict(type='RepAdapter', rank=2)),
}
BY_FILE = (
    'flora',
    'lora',
    'loralib',
    'pissa',
    'olora',
    'lora-xs',
    'corda',
    'eva',
    'lora-ga',
    'flora weight',
    'lift',
    'sara',
    'matryoshka',
    'dylora',
    'matryoshka flora',
    's2ft',
    'gps',
    'spt',
)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def make(run):
    """Build a trained toy model of a method, and its adapter."""

    def make(method, seed=None):
        config = backbone_cfg(run / 'base.pth')
        config.update(type='mmflora.PEFTConvNeXt', **METHODS[method])
        model = random_starts(ToyModel(config)).eval()
        if seed is None:
            return model
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    return make


def config_of(run, method):
    """Return a whole config of the toy model, for what builds it."""
    backbone = backbone_cfg(run / 'base.pth')
    backbone.update(type='mmflora.PEFTConvNeXt', **METHODS[method])
    model = dict(type='mmengine.ToyModel', backbone=backbone)
    return Config(dict(model=model, default_scope='mmdet'))


@pytest.mark.parametrize('method', METHODS)
@torch.no_grad()
def test_there_and_back(make, tmp_path, method):
    model = make(method, seed=1)
    adapter = adapter_of(model)
    expected = model(IMAGES)
    assert not torch.allclose(make(method)(IMAGES), expected, atol=1e-3)
    read = read_adapter(write_adapter(adapter, tmp_path / 'adapter'))
    again = apply_adapter(make(method), read)
    assert torch.equal(again(IMAGES), expected)
    loaded = make(method)
    loaded.load_state_dict(to_checkpoint(read)['state_dict'], strict=True)
    assert torch.equal(loaded(IMAGES), expected)
    state, ours = model.state_dict(), again.state_dict()
    for key, value in state.items():
        assert torch.equal(ours[key], value), key
    described = read.backbone()
    assert described['method']['adapter'] == METHODS[method]['adapter']
    assert bool(described['tuned']) == (
        method in ('bitfit', 'norms', 'full', 'mixed')
    )
    ((_, record),) = base_records(again).values()
    assert bool(record.base_keys) == (method != 'full')
    for key in record.base_keys:
        assert f'backbone.{key}' not in read.tensors, 'the base stays out'


@pytest.mark.parametrize('method', BY_FILE)
def test_updates_in_a_file_are_the_models(make, method):
    model = make(method, seed=1)
    updates = stored_updates(adapter_of(model))
    layers = adapted_layers(model)
    assert updates.keys() == layers.keys()
    for name, layer in layers.items():
        dense = layer.delta_weight().detach().double()
        assert updates[name].norm() == pytest.approx(
            float(dense.norm()), rel=1e-4
        )
        if method != 'loralib':
            matrix = updates[name].dense().reshape(dense.shape)
            torch.testing.assert_close(matrix, dense, rtol=1e-4, atol=1e-5)


def test_files_of_two_methods_are_compared(make):
    models = [make(name, 1) for name in ('flora', 'pissa')]
    rows = compare_adapters(*map(adapter_of, models))
    ours, theirs = map(adapted_layers, models)
    for row in rows:
        a, b = (
            layers[row.layer].delta_weight().detach().double()
            for layers in (ours, theirs)
        )
        assert row.difference == pytest.approx(float((a - b).norm()), rel=1e-3)
        assert len(row.angles) in (2, 4)


@pytest.mark.parametrize('method', ['dora', 'ssf', 'bitfit', 'mixed', 'loha'])
def test_whole_changes_are_compared(make, run, tmp_path, method, monkeypatch):
    build_from(monkeypatch, make)
    first, second = make(method, 1), make(method, 2)
    start = make(method).state_dict()
    configs = (config_of(run, method),) * 2
    rows = compare_models(adapter_of(first), adapter_of(second), configs)
    assert len(rows) >= 8
    for row in rows:
        changes = [whole(model, row.layer, start) for model in (first, second)]
        for norm, change in zip(row.norms, changes, strict=True):
            assert norm == pytest.approx(float(change.norm()), rel=1e-3)
        off = float((changes[0] - changes[1]).norm())
        assert row.difference == pytest.approx(off, rel=1e-3)
        assert row.norms[0] > 0
        assert row.angles == ()
    names = {row.layer.rpartition('.')[2] for row in rows}
    assert ('bias' in names) == (method in ('ssf', 'bitfit', 'mixed'))
    assert 'degrees' not in difference_table(rows)
    draw_differences(rows, ('a', 'b'), tmp_path / 'difference.png')
    assert (tmp_path / 'difference.png').stat().st_size > 5000


def whole(model, key, start):
    """Return what a model changes in one parameter of its base."""
    owner, _, name = key.rpartition('.')
    layer = model.get_submodule(owner)
    if hasattr(layer, 'adapter'):
        if name == 'weight':
            return layer.delta_weight().detach().double()
        bias = layer.base_bias()
        return (layer.adapter.adapted_bias(bias) - bias).detach().double()
    return (layer.get_parameter(name) - start[key]).detach().double()


def build_from(monkeypatch, make):
    """Let files build toy models, of which no toolkit knows."""
    from mmflora.adapter_files import apply, compare_models

    def build(config, adapter):
        return ToyModel(config.model.backbone.to_dict()).eval()

    for module in (apply, compare_models):
        monkeypatch.setattr(module, 'build', build)


@pytest.mark.parametrize('method', ['flora', 'dora', 'bitfit'])
def test_statistics_of_a_file(make, run, monkeypatch, method):
    build_from(monkeypatch, make)
    model = make(method, 1)
    adapter, config = adapter_of(model), config_of(run, method)
    if method == 'bitfit':
        with pytest.raises(ValueError, match='updates no weight'):
            statistics_of(adapter, config)
        return
    found = {
        row.layer: row.statistics for row in statistics_of(adapter, config)
    }
    layers = adapted_layers(model)
    assert found.keys() == layers.keys()
    for name, layer in layers.items():
        assert found[name] == update_statistics(layer)


def test_what_cannot_be_compared(make, run, monkeypatch):
    build_from(monkeypatch, make)
    dora, bitfit = (adapter_of(make(name, 1)) for name in ('dora', 'bitfit'))
    with pytest.raises(ValueError, match='DoRA, whose update is not in the f'):
        compare_adapters(dora, dora)
    with pytest.raises(ValueError, match='BitFit trains .*Give --config'):
        compare_adapters(bitfit, bitfit)
    houlsby = adapter_of(make('houlsby', 1))
    configs = (config_of(run, 'houlsby'),) * 2
    with pytest.raises(ValueError, match='no change of a weight'):
        compare_models(houlsby, houlsby, configs)
    dora.backbone()['base']['sha256'] = 'f' * 64
    configs = config_of(run, 'dora'), config_of(run, 'flora')
    with pytest.raises(ValueError, match='different bases'):
        compare_models(dora, adapter_of(make('flora', 1)), configs)
