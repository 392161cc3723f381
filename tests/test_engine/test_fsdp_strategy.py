"""FSDP: two processes equal one, in training, checkpoints and tests.

The losses are means over images, so the mean over two ranks of two images
each is that of one rank with the four; batch norms and dropout, which depend
on the batch or on chance, are left out.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner
from torch import nn

from mmflora.engine.fsdp_units import check_can_shard, find_units

from .fsdp_process import FULL, SGD, EvenModel, sharded, two_runs
from .toy import Logits, backbone_cfg, runner, write_base

# Sums of float32 in another order, over six steps.
BOUND = dict(rtol=1e-4, atol=1e-6)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp('fsdp') / 'base.pth')


@pytest.fixture(scope='module')
def reports(tmp_path_factory, base):
    """Return the folder of two ranks' work and what each reports."""
    folder = tmp_path_factory.mktemp('two_ranks')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    root = Path(__file__).parents[2]
    shared = dict(
        os.environ,
        PYTHONPATH=f'{root}:{os.environ.get("PYTHONPATH", "")}',
        WORLD_SIZE='2',
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    processes = [
        subprocess.Popen(
            [sys.executable, '-m', 'test_engine.fsdp_process']
            + [str(folder), str(base)],
            cwd=Path(__file__).parents[1],
            env=dict(shared, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-6000:]
    return folder, [
        json.loads((folder / f'rank{rank}.json').read_text())
        for rank in range(2)
    ]


@pytest.fixture(scope='module')
def alone(tmp_path_factory, base):
    """The same runs in one process, with the same images per step."""
    folder = tmp_path_factory.mktemp('one_rank')
    return folder, two_runs(folder, str(base), batch=4)


def read(path):
    return torch.load(path, weights_only=True)


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(
            value,
            theirs[key],
            msg=lambda text, key=key: f'{key}: {text}',
            **BOUND,
        )


def test_everything_is_sharded(reports):
    _, (first, second) = reports
    assert first['sharded']
    assert second['sharded']
    assert first['units'] == 5, 'four blocks and the whole'
    total = sum(p.numel() for p in EvenModel(backbone_cfg()).parameters())
    plain = total - sum(
        p.numel()
        for name, p in EvenModel(backbone_cfg()).named_parameters()
        if '.adapter.' in name
    )
    assert first['local'] + second['local'] == plain
    assert 0.4 < first['local'] / plain < 0.6


def test_losses_and_gradients_equal_those_of_one_process(reports, alone):
    _, (first, second) = reports
    _, expected = alone
    assert first['losses'] != second['losses'], 'they saw the same images'
    together = [
        (a + b) / 2
        for a, b in zip(first['losses'], second['losses'], strict=True)
    ]
    assert together == pytest.approx(expected['losses'], rel=1e-5)
    assert first['norms'] == second['norms']
    assert first['norms'] == pytest.approx(expected['norms'], rel=1e-4)


@pytest.mark.parametrize('run', ['whole', 'full'])
def test_checkpoints_are_those_of_one_process(reports, alone, run):
    (ours, _), (theirs, _) = reports, alone
    sharded_file = read(ours / run / 'epoch_2.pth')
    plain_file = read(theirs / run / 'epoch_2.pth')
    assert sharded_file.keys() == plain_file.keys()
    assert sharded_file['meta'].keys() == plain_file['meta'].keys()
    assert (
        sharded_file['meta']['mmflora']['backbones']
        == plain_file['meta']['mmflora']['backbones']
    )
    frozen = 'backbone.stages.0.blocks.0.mlp.fc1.weight'
    assert (frozen in sharded_file['state_dict']) == (run == 'full')
    if run == 'whole':  # AdamW's steps are as large for noise as for signal
        assert_close(sharded_file['state_dict'], plain_file['state_dict'])
        momenta = [
            {
                f'{index} {key}': value
                for index, entry in file['optimizer']['state'].items()
                for key, value in entry.items()
            }
            for file in (sharded_file, plain_file)
        ]
        assert_close(*momenta)


def test_a_resumed_run_repeats_the_uninterrupted_one(reports):
    folder, _ = reports
    whole = read(folder / 'whole/epoch_2.pth')
    resumed = read(folder / 'half/epoch_2.pth')
    for key, value in whole['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][key]), key


def test_one_process_goes_on_from_a_checkpoint_of_two(tmp_path, base, reports):
    folder, _ = reports
    built = runner(
        tmp_path / 'run',
        backbone_cfg(base),
        model=EvenModel(backbone_cfg(base)),
        load_from=str(folder / 'whole/epoch_1.pth'),
        resume=True,
        **SGD,
    )
    assert isinstance(built, Runner)
    built._train_dataloader['sampler'] = dict(
        type='DefaultSampler', shuffle=False
    )
    built.train()
    assert_close(
        read(tmp_path / 'run/epoch_2.pth')['state_dict'],
        read(folder / 'whole/epoch_2.pth')['state_dict'],
    )


def test_a_test_gives_the_predictions_of_the_ordinary_runner(
    tmp_path, base, reports
):
    folder, (first, _) = reports
    built = runner(
        tmp_path / 'run',
        backbone_cfg(base),
        test=True,
        model=EvenModel(backbone_cfg(base)),
        load_from=str(folder / 'whole/epoch_1.pth'),
    )
    built.test()
    torch.testing.assert_close(
        torch.tensor(first['logits']), Logits.last, **BOUND
    )


def test_units_that_match_nothing_are_refused():
    model = nn.ModuleDict(
        dict(backbone=nn.ModuleDict(dict(a=nn.Linear(2, 2))))
    )
    with pytest.raises(ValueError, match=r"'x\\\\.y' matches .* no module"):
        find_units(model, [r'x\.y'])


def test_inner_units_come_before_outer_ones():
    inner = nn.Sequential(nn.Linear(2, 2))
    model = nn.Sequential(nn.Sequential(inner), nn.Linear(2, 2))
    assert find_units(model, [r'0(\.0)?', '1']) == [
        *(model[1], inner, model[0])
    ]


def test_half_checkpointed_blocks_are_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].with_cp = 'mlp'
    with pytest.raises(ValueError, match="with_cp='mlp' of '0'.*True"):
        check_can_shard(model)


@pytest.mark.parametrize('kind', ['float32', 'int8'])
def test_unknown_types_are_refused(tmp_path, kind):
    from mmflora.engine import FSDPStrategy

    with pytest.raises(ValueError, match=f"bfloat16 or float16, got '{kind}'"):
        FSDPStrategy(param_dtype=kind, work_dir=str(tmp_path))


def test_one_process_alone_trains_everything_too(tmp_path, base):
    built = sharded(tmp_path / 'run', base, method=FULL, batch=4, epochs=1)
    built.train()
    state = read(tmp_path / 'run/epoch_1.pth')['state_dict']
    assert 'backbone.stem.0.weight' in state
