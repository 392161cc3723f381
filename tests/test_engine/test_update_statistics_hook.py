import csv

import pytest
import torch
from mmengine.visualization import Visualizer
from test_tools.conftest import load_tool

from mmflora.adapter_files.statistics import (
    last_records,
    recorded_statistics,
    statistics_table,
)
from mmflora.adapters import adapted_layers
from mmflora.adapters.update_statistics import update_statistics
from mmflora.engine import UpdateStatisticsHook

from .toy import backbone_cfg, runner


def trained(folder, base, **kwargs):
    hooks = [
        dict(type='mmflora.UpdateStatisticsHook', interval=2),
        dict(type='mmflora.IterationSeedHook'),
    ]
    built = runner(folder, backbone_cfg(base), custom_hooks=hooks, **kwargs)
    built.train()
    return built


@pytest.fixture
def scalars(monkeypatch):
    seen = {}
    add = Visualizer.add_scalars

    def note(self, values, step=0, **kwargs):
        if 'update/norm' in values:
            seen[step] = values
        add(self, values, step, **kwargs)

    monkeypatch.setattr(Visualizer, 'add_scalars', note)
    return seen


def test_a_run_is_recorded_from_its_start_to_its_end(tmp_path, base, scalars):
    built = trained(tmp_path, base)  # 6 iterations
    layers = adapted_layers(built.model)
    records = recorded_statistics(tmp_path)
    times = sorted({row.iteration for row in records})
    assert times == [0, 2, 4, 6]
    assert len(records) == 4 * len(layers)
    assert all(r.statistics.norm == 0 for r in records if r.iteration == 0)
    last = {row.layer: row.statistics for row in last_records(records)}
    for name, layer in layers.items():
        assert last[name] == update_statistics(layer)
        assert last[name].norm > 0
    assert sorted(scalars) == times
    for name in ('norm', 'relative', 'amplification'):
        values = [getattr(of, name) for of in last.values()]
        mean = sum(values) / len(values)
        assert scalars[6][f'update/{name}'] == pytest.approx(mean)
    assert 'stages.0' in statistics_table(last_records(records))


def test_a_resumed_run_is_one_record(tmp_path, base):
    whole = trained(tmp_path / 'whole', base)
    trained(tmp_path / 'parts', base, epochs=1)
    # MMEngine may give both starts one folder, named after the second.
    trained(
        tmp_path / 'parts',
        base,
        resume=True,
        load_from=str(tmp_path / 'parts' / 'epoch_1.pth'),
    )
    expected = recorded_statistics(whole.work_dir)
    found = recorded_statistics(tmp_path / 'parts')
    assert {r.iteration for r in found} == {0, 2, 3, 4, 6}
    assert [r for r in found if r.iteration in (0, 2, 4, 6)] == expected


def test_the_tool_prints_and_draws_a_run(tmp_path, base, capsys):
    trained(tmp_path, base)
    picture = tmp_path / 'updates.png'
    load_tool('adapters').main(['show', str(tmp_path), '--plot', str(picture)])
    printed = capsys.readouterr().out
    assert 'backbone.stem.0 ' in printed
    assert str(picture) in printed
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_a_torn_line_is_left_out(tmp_path, base):
    trained(tmp_path, base)
    (file,) = tmp_path.rglob('update_statistics.csv')
    whole = recorded_statistics(file)
    with file.open('rb+') as stream:
        stream.truncate(file.stat().st_size - 3)
    assert recorded_statistics(file) == whole[:-1]


def test_what_is_no_record_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match='UpdateStatisticsHook'):
        recorded_statistics(tmp_path)
    other = tmp_path / 'update_statistics.csv'
    with other.open('w', newline='') as file:
        csv.writer(file).writerows([['epoch', 'loss'], [1, 0.5]])
    with pytest.raises(ValueError, match='its columns are'):
        recorded_statistics(other)
    torch.save({}, tmp_path / 'epoch_1.pth')
    with pytest.raises(ValueError, match='--config'):
        recorded_statistics(tmp_path / 'epoch_1.pth')


def test_a_method_without_updates_is_an_error(tmp_path, base):
    backbone = backbone_cfg(base)
    backbone['adapter'] = dict(type='BitFit')
    hooks = [dict(type='mmflora.UpdateStatisticsHook')]
    built = runner(tmp_path, backbone, custom_hooks=hooks)
    with pytest.raises(ValueError, match='no layer of the model'):
        built.train()


@pytest.mark.parametrize(
    'bad', [dict(interval=0), dict(rank=0), dict(intruders=-1), dict(rank=1.5)]
)
def test_numbers_out_of_range_are_errors(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        UpdateStatisticsHook(**bad)
