"""The search over a trained toy: exact, interrupted, resumed, refused."""

import json

import pytest
import timm
import torch
from mmengine.config import Config
from test_engine.toy import ToyModel
from test_tasks.conftest import outputs, randomise

from mmflora.adapter_files import (
    apply_adapter,
    load_adapter,
    read_adapter,
    save_adapter,
    write_adapter,
)
from mmflora.adapter_files.read import read_any
from mmflora.adapter_files.reduce import reduce_ranks
from mmflora.adapters import adapted_modules, inject
from mmflora.search.evolution import Evolution
from mmflora.search.search_picture import draw_search
from mmflora.search.search_result import architecture_table, write_found
from mmflora.search.search_run import Goal, run_search
from mmflora.search.space import space_of
from mmflora.search.supernet import Supernet, validation_config

from .conftest import SUPERNET, config_for, train

LORA = dict(type='DyLoRA', rank=4, ranks=[0, 2, 4], per_layer=True, scale=0.5)
NOAH = {
    r'blocks\.\d': dict(type='VPT', tokens=3, counts=[0, 1, 3]),
    r'.*\.qkv': {},
    r'.*\.mlp': dict(type='Pfeiffer', width=4, widths=[0, 1, 4]),
}
SMALL = Evolution(population=4, generations=2, parents=2)


def budget_of(space):
    widest = tuple(one.ranks[-1] for one in space.layers)
    return space.parameters(widest) // 3


def search(trained, adapter, log, **goal):
    """Search over the toy; return the result and what was said."""
    space, said = space_of(adapter), []
    goal.setdefault('budget', budget_of(space))
    result = run_search(
        config_for(trained.parents[1]),
        adapter,
        space,
        Goal(**goal),
        SMALL,
        log,
        said.append,
    )
    return space, result, said


def test_the_space_is_what_was_trained(adapter):
    space = space_of(adapter)
    names = [one.name for one in space.layers]
    assert names == list(adapter.layers())
    stored = adapter.layers()
    for one, cost in zip(space.layers, space.costs, strict=True):
        assert (one.method, one.part) == ('MatryoshkaFLoRA', 'backbone')
        assert one.ranks == (0, 1, 4)
        assert cost[0] == 0
        whole = sum(value.numel() for value in stored[one.name].values())
        assert cost[4] == whole


def test_an_architecture_is_its_adapter(trained, adapter, toy_runs, tmp_path):
    """Tested in place, cut out, written, built: the same, and as many."""
    space = space_of(adapter)
    choice = tuple(
        one.ranks[place % 3] for place, one in enumerate(space.layers)
    )
    ranks = space.ranks(choice)
    cfg = config_for(trained.parents[1])
    whole = Supernet(validation_config(cfg), str(trained), ranks)
    found = whole.test(ranks)
    model = whole.runner.model.eval()
    for name, module in adapted_modules(model).items():
        assert module.adapter.prefix is None
        module.adapter.prefix = ranks[name]
    expected = outputs(model)

    config, weights = write_found(cfg, adapter, ranks, tmp_path / 'found')
    again = Config.fromfile(str(config))
    small = ToyModel(again.model.backbone)
    modules = adapted_modules(small)
    assert set(modules) == {name for name, rank in ranks.items() if rank}
    count = sum(
        p.numel() for m in modules.values() for p in m.adapter.parameters()
    )
    assert count == space.parameters(choice)
    apply_adapter(small, read_adapter(weights))
    # Products of fewer rows are summed in another order in float32.
    torch.testing.assert_close(
        outputs(small.eval()), expected, rtol=1e-4, atol=1e-5
    )
    for module in modules.values():
        assert type(module.adapter).__name__ == 'FLoRA'
    assert 'work_dir' not in again
    assert set(found) == {'accuracy', 'loss'}


def test_an_interrupted_search_goes_on(trained, adapter, toy_runs, tmp_path):
    space, whole, said = search(trained, adapter, tmp_path / 'whole.jsonl')
    assert len(toy_runs) == len(whole.rows) == len(said) == 8
    assert whole.metric == 'accuracy'
    assert all(
        row['parameters'] <= budget_of(space)
        and set(row['metrics']) == {'accuracy', 'loss'}
        for row in whole.rows
    )
    lines = (tmp_path / 'whole.jsonl').read_text().splitlines(True)
    assert len(lines) == 9
    # Killed while it wrote its sixth line.
    log = tmp_path / 'part.jsonl'
    log.write_text(''.join(lines[:6]) + lines[6][:20])
    _, again, said = search(trained, adapter, log)
    assert len(toy_runs) == 8 + 3
    assert again == whole
    assert log.read_text() == ''.join(lines)
    assert ['from the log' in line for line in said] == [True] * 5 + [
        False
    ] * 3
    # And without any test where all is there.
    assert search(trained, adapter, log)[1] == whole
    assert len(toy_runs) == 11


def test_less_may_be_better(trained, adapter, toy_runs, tmp_path):
    log = tmp_path / 'log.jsonl'
    _, found, _ = search(trained, adapter, log, metric='loss', rule='less')
    values = {tuple(r['ranks']): r['metrics']['loss'] for r in found.rows}
    assert values[found.best] == min(values.values())


def test_a_value_that_is_no_number_is_the_worst():
    for rule in ('greater', 'less'):
        goal = Goal(1, None, rule)
        assert goal.score(float('nan')) < goal.score(-1e30)
        assert goal.score(float('nan')) < goal.score(1e30)
        assert goal.value(goal.score(0.25)) == 0.25


def test_picture_and_table(trained, adapter, toy_runs, tmp_path):
    space, found, _ = search(trained, adapter, tmp_path / 'log.jsonl')
    draw_search(space, found, budget_of(space), tmp_path / 'search.png')
    assert (tmp_path / 'search.png').stat().st_size > 10_000
    lines = architecture_table(space, found.best).splitlines()
    assert len(lines) == len(space.layers) + 2
    assert lines[-1].split() == ['all', f'{space.parameters(found.best):,}']


def test_another_search_has_another_log(trained, adapter, toy_runs, tmp_path):
    log = tmp_path / 'log.jsonl'
    space, _, _ = search(trained, adapter, log)
    budget = budget_of(space) + 1
    with pytest.raises(ValueError, match='log of another search: budget'):
        search(trained, adapter, log, budget=budget)
    header, *rows = log.read_text().splitlines(True)
    other = json.dumps({**json.loads(header), 'supernet': 'x'}) + '\n'
    log.write_text(other + ''.join(rows))
    with pytest.raises(ValueError, match='another search: supernet'):
        search(trained, adapter, log)


def test_refusals(trained, adapter, toy_runs, tmp_path):
    log = tmp_path / 'log.jsonl'
    with pytest.raises(ValueError, match='smallest architecture takes'):
        search(trained, adapter, log, budget=1)
    with pytest.raises(ValueError, match="--metric: .* no 'mAP'; it has acc"):
        search(trained, adapter, log, metric='mAP')
    assert not log.exists()  # so that another --metric is the same search
    space = space_of(adapter)
    for lacking in ('val_dataloader', 'val_evaluator'):
        cfg = config_for(trained.parents[1])
        cfg.pop(lacking)
        with pytest.raises(ValueError, match=f'has no {lacking}'):
            validation_config(cfg)
    cfg = config_for(trained.parents[1])
    cfg.model.backbone.targets = r'stages\.3\..*'
    with pytest.raises(ValueError, match='is no checkpoint of'):
        Supernet(
            validation_config(cfg), str(trained), space.ranks(space.smallest())
        )
    other = dict(SUPERNET, kernel_rank=1)
    cfg = config_for(trained.parents[1], adapter=other)
    # The shapes of the trained adapters do not fit.
    with pytest.raises(ValueError, match='adapter'):
        run_search(
            cfg, adapter, space, Goal(10**9), SMALL, tmp_path / 'a', print
        )


@pytest.mark.parametrize(
    ('method', 'part'),
    [
        (dict(type='LoRA', rank=2), 'type LoRA whose training draws no ranks'),
        (dict(type='Pfeiffer', width=2), 'Pfeiffer whose training draws no'),
        (dict(type='SSF'), 'of which no lower rank can be made'),
    ],
)
def test_a_method_without_nested_ranks(trained, tmp_path, method, part):
    path = train(trained.parents[1], method, method['type'], epochs=1)
    with pytest.raises(ValueError, match=part):
        space_of(read_any(path))


def test_ranks_by_layer(adapter):
    names = list(adapter.layers())
    with pytest.raises(ValueError, match='a rank from 0, for no adapter, to'):
        reduce_ranks(adapter, prefix=True, ranks={names[0]: 1})
    high = dict.fromkeys(names, 5)
    with pytest.raises(ValueError, match=f"layer '{names[0]}' 5"):
        reduce_ranks(adapter, prefix=True, ranks=high)
    with pytest.raises(ValueError, match="no adapter in 'backbone'"):
        reduce_ranks(adapter, prefix=True, ranks=dict.fromkeys(names, 0))
    ranks = {name: place % 2 for place, name in enumerate(names)}
    lower, rows = reduce_ranks(adapter, prefix=True, ranks=ranks)
    assert list(lower.layers()) == [n for n in names if ranks[n]]
    for row in rows:
        assert row.ranks == (4, ranks[row.layer])
        assert bool(row.parameters[1]) == bool(ranks[row.layer])
        if not ranks[row.layer]:
            assert row.error == pytest.approx(row.norm)


def test_three_kinds_in_one_space(tmp_path):
    """Prompts, LoRA and bottlenecks of a plain transformer, cut out."""

    def plain():
        torch.manual_seed(0)
        return timm.create_model(
            'vit_tiny_patch16_224',
            **dict(img_size=32, embed_dim=12, depth=3, num_heads=2),
            num_classes=0,
        ).eval()

    net = plain()
    inject(net, LORA, NOAH)
    randomise(net, 0)
    read = read_adapter(save_adapter(net, tmp_path / 'noah.safetensors'))
    space = space_of(read)
    kinds = [one.method for one in space.layers]
    assert kinds == ['VPT', 'DyLoRA', 'Pfeiffer'] * 3
    # Of each kind a block without it, and a narrow one.
    choice = (1, 0, 4, 0, 2, 1, 3, 4, 0)
    ranks = space.ranks(choice)
    assert space.parameters(choice) == (
        12 * (1 + 3)  # prompts
        + (12 + 36) * (2 + 4)  # matrices of LoRA
        + (2 * 12 + 1) * (4 + 1)
        + 2 * 12  # bottlenecks
    )
    for name, module in adapted_modules(net).items():
        module.adapter.prefix = ranks[name]
    lower, _ = reduce_ranks(read, prefix=True, ranks=ranks)
    again = read_adapter(write_adapter(lower, tmp_path / 'found'))
    small = load_adapter(plain(), tmp_path / 'found')
    modules = adapted_modules(small)
    assert {*modules} == {name for name, rank in ranks.items() if rank}
    assert again.tensors.keys() == lower.tensors.keys()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(small(images), net(images))
