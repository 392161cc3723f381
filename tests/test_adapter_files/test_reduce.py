"""Files of lower ranks: made, written, loaded and refused."""

import itertools

import pytest
import torch
from mmengine.config import Config
from test_engine.toy import ToyModel, adapter_of, backbone_cfg
from test_tasks.conftest import deltas, outputs, randomise

from mmflora.adapter_files import apply_adapter, read_adapter, write_adapter
from mmflora.adapter_files.convert import from_checkpoint, write_checkpoint
from mmflora.adapter_files.rank_choice import ranks_of_budget
from mmflora.adapter_files.rank_curve import adapters_of_ranks
from mmflora.adapter_files.reduce import reduce_ranks
from mmflora.adapter_files.reduced_report import config_of, reduction_table
from mmflora.adapters import adapted_layers

LORA = dict(type='LoRA', rank=6, alpha=3.0)
FLORA = dict(type='FLoRA', rank=6)
MLP = r'stages\.\d\.blocks\.\d\.mlp\.fc\d'


@pytest.fixture
def toy(run):
    def build(seed, **changes):
        config = {**backbone_cfg(run / 'base.pth'), **changes}
        return randomise(ToyModel(config), seed).eval()

    return build


def loaded(toy, adapter, **changes):
    """Load an adapter into a model that is built as it says."""
    method = adapter.backbone()['method']
    model = toy(
        9, adapter=method['adapter'], targets=method['targets'], **changes
    )
    return apply_adapter(model, adapter).eval()


@pytest.mark.parametrize(
    ('settings', 'prefix', 'how'),
    [
        (LORA, False, 'rank'),
        (LORA, False, 'budget'),
        (LORA, True, 'energy'),
        (FLORA, False, 'budget'),
        (FLORA, False, 'energy'),
        (FLORA, True, 'rank'),
    ],
)
def test_round_trip(toy, tmp_path, settings, prefix, how):
    model = toy(1, adapter=settings)
    whole = adapter_of(model)
    count = sum(
        p.numel()
        for layer in adapted_layers(model).values()
        for p in layer.adapter.parameters()
    )
    given = dict(rank=2, budget=count // 2, energy=0.7)[how]
    lower, rows = reduce_ranks(whole, prefix=prefix, **{how: given})
    back = read_adapter(write_adapter(lower, tmp_path / 'lower'))
    small = loaded(toy, back)
    layers = adapted_layers(small)
    assert [row.layer for row in rows] == list(layers)
    before, after = deltas(model), deltas(small)
    for row in rows:
        parameters = layers[row.layer].adapter.parameters()
        assert row.parameters[1] == sum(p.numel() for p in parameters)
        error = float((before[row.layer] - after[row.layer]).norm())
        assert row.error == pytest.approx(error, rel=1e-3, abs=1e-4)
        norm = float(before[row.layer].norm())
        assert row.norm == pytest.approx(norm, rel=1e-5)
        if how == 'energy':
            assert 1 - (error / norm) ** 2 >= given - 1e-5
    assert sum(row.parameters[0] for row in rows) == count
    if how == 'budget':
        assert sum(row.parameters[1] for row in rows) <= given
    # By way of a checkpoint, too.
    path = write_checkpoint(lower, tmp_path / 'lower.pth')
    again = loaded(toy, from_checkpoint(path, {}))
    assert torch.equal(outputs(again), outputs(small))
    table = reduction_table(rows)
    assert table.count('\n') == len(rows) + 1
    assert f'{count:,} -> ' in table.splitlines()[-1]


def test_the_whole_rank_is_the_adapter(toy):
    model = toy(1, adapter=LORA, targets={MLP: dict(rank=3), '.*': {}})
    whole = adapter_of(model)
    for prefix in (True, False):
        lower, rows = reduce_ranks(whole, prefix=prefix, rank=6)
        same = outputs(loaded(toy, lower))
        torch.testing.assert_close(same, outputs(model), rtol=1e-4, atol=1e-4)
        ranks = {row.layer.rpartition('.')[2]: row.ranks for row in rows}
        assert ranks['fc1'] == (3, 3)
        assert ranks['conv_dw'] == (6, 6)


def test_what_is_tuned_stays(toy):
    targets = {r'stem\.0': dict(type='Full'), MLP: {}}
    model = toy(1, adapter=dict(type='PiSSA', rank=4), targets=targets)
    for how in (dict(rank=8), dict(energy=1.0)):
        lower, _ = reduce_ranks(adapter_of(model), **how)
        method = lower.backbone()['method']
        assert method['targets'][r'stem\.0'] == dict(type='Full')
        found = outputs(loaded(toy, lower))
        torch.testing.assert_close(found, outputs(model), rtol=1e-3, atol=1e-3)


def test_a_budget_keeps_the_most(toy):
    """Compare with all choices of ranks for three layers."""
    targets = r'stages\.[012]\.blocks\.0\.mlp\.fc1'
    model = toy(1, adapter=dict(LORA, rank=4), targets=targets)
    whole = adapter_of(model)
    kinds = whole.layers()
    layers = {
        name: adapted_layers(model)[name].adapter.nearest(
            tensors, dict(rank=4, alpha=3.0)
        )
        for name, tensors in kinds.items()
    }
    assert len(layers) == 3
    most = sum(one.parameters(4) for one in layers.values())
    choices = [
        dict(zip(layers, ranks, strict=True))
        for ranks in itertools.product(range(1, 5), repeat=3)
    ]

    def spent(ranks):
        return sum(one.parameters(ranks[n]) for n, one in layers.items())

    def kept(ranks):
        return sum(one.kept(ranks[n]) for n, one in layers.items())

    gaps = []
    for budget in range(most // 4 + 60, most + 1, 37):
        ranks = ranks_of_budget(layers, budget)
        assert spent(ranks) <= budget
        best = max(kept(r) for r in choices if spent(r) <= budget)
        gaps.append(best - kept(ranks))
        # No more is lost than one step that did not fit would keep.
        assert gaps[-1] <= max(one.kept(4) for one in layers.values()) / 2
    assert min(gaps) < 1e-9
    assert ranks_of_budget(layers, most) == dict.fromkeys(layers, 4)


def test_config_of_the_result(toy, run):
    model = toy(1, adapter=LORA)
    lower, _ = reduce_ranks(adapter_of(model), energy=0.6)
    backbone = backbone_cfg(run / 'base.pth')
    config = Config(dict(model=dict(type='ToyModel', backbone=backbone)))
    made = config_of(config, lower)
    again = Config.fromstring(made.pretty_text, '.py')
    found = ToyModel(again.model.backbone)
    apply_adapter(found, lower)
    whole = loaded(toy, lower)
    assert torch.equal(outputs(found.eval()), outputs(whole))
    with pytest.raises(ValueError, match="no frozen part 'backbone'"):
        config_of(Config(dict(model=dict(type='ToyModel'))), lower)


def test_ranks_of_a_curve_are_made_before_the_first_test(toy, run, tmp_path):
    adapter = adapter_of(toy(1, adapter=LORA))
    backbone = backbone_cfg(run / 'base.pth')
    config = Config(dict(model=dict(type='ToyModel', backbone=backbone)))
    options = dict(folder=tmp_path, prefix=True)
    made = adapters_of_ranks(config, adapter, [1, 6], **options)
    assert [rank for rank, _, _ in made] == [1, 6]
    assert made[1][1] == 6 * made[0][1]
    with pytest.raises(ValueError, match='number from 1 to 6'):
        adapters_of_ranks(config, adapter, [1, 7], **options)


def test_refusals(toy):
    lora = adapter_of(toy(1, adapter=LORA))
    for given in ({}, dict(rank=2, energy=0.5)):
        with pytest.raises(ValueError, match='one of rank, budget and energy'):
            reduce_ranks(lora, **given)
    for prefix in (True, False):
        for rank in (0, -1, 7):
            with pytest.raises(ValueError, match='number from 1 to 6'):
                reduce_ranks(lora, prefix=prefix, rank=rank)
    with pytest.raises(ValueError, match='budget of 100 parameters is too'):
        reduce_ranks(lora, budget=100)
    for energy in (0, 1.5, float('nan')):
        with pytest.raises(ValueError, match='above 0 and at most 1'):
            reduce_ranks(lora, energy=energy)
    with pytest.raises(ValueError, match='no modes of a kernel'):
        reduce_ranks(lora, rank=2, kernel_rank=1)
    for settings, word in (
        (dict(type='SSF'), 'type SSF, of which no lower rank'),
        (dict(type='FacT', rank=2), 'type FacT, of which no lower rank'),
        (dict(type='BitFit'), 'no layer with an adapter'),
    ):
        with pytest.raises(ValueError, match=word):
            reduce_ranks(adapter_of(toy(1, adapter=settings)), rank=1)
    dora = adapter_of(toy(1, adapter=dict(type='DoRA', rank=4)))
    with pytest.raises(ValueError, match='`truncate` takes the prefix'):
        reduce_ranks(dora, rank=2)
    with pytest.raises(ValueError, match='Give a rank instead of a budget'):
        reduce_ranks(dora, prefix=True, energy=0.5)
    lower, rows = reduce_ranks(dora, prefix=True, rank=2)
    assert rows[0].error is None
    loaded(toy, lower)
    changed = adapter_of(toy(1, adapter=LORA))
    changed.backbone()['method']['adapter']['alpha'] = 1.0
    with pytest.raises(ValueError, match='cannot be restated'):
        reduce_ranks(changed, rank=2)


@pytest.mark.parametrize('command', ['truncate', 'compress'])
def test_tool(run, checkpoint, tmp_path, capsys, command):
    from test_tools.conftest import load_tool

    tool = load_tool('adapters')
    out = tmp_path / 'lower.safetensors'
    tool.main([command, str(checkpoint), str(out), '--rank', '2'])
    assert 'rank' in capsys.readouterr().out
    lower = read_adapter(out)
    assert lower.backbone()['method']['adapter']['rank'] == 2
    with pytest.raises(SystemExit, match='from 1 to 4'):
        tool.main([command, str(checkpoint), str(out), '--rank', '5'])
    with pytest.raises(SystemExit, match='--budget.*no number of parameters'):
        tool.main([command, str(checkpoint), str(out), '--budget', '3e5'])
