"""FSDP: two processes equal one, in training, checkpoints and tests.

The losses are means over images, so the mean over two ranks of two images
each is that of one rank with the four; batch norms and dropout, which depend
on the batch or on chance, are left out.
"""

import pytest
import torch
from mmengine.runner import Runner
from torch import nn

from mmflora.engine.strategies.fsdp_units import check_can_shard, find_units

from .fsdp_process import FULL, SGD, EvenModel, run_two, sharded, two_runs
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
    return folder, run_two('test_engine.fsdp_process', folder, base)


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
    whole = sum(p.numel() for p in EvenModel(backbone_cfg()).parameters())
    assert first['local'] + second['local'] == whole
    assert 0.4 < first['local'] / whole < 0.6


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


def test_checkpoints_are_those_of_one_process(reports, alone):
    ours, theirs = (
        read(folder / 'whole/epoch_2.pth') for folder, _ in (reports, alone)
    )
    assert ours.keys() == theirs.keys()
    assert ours['meta'].keys() == theirs['meta'].keys()
    first, second = (file['meta']['mmflora'] for file in (ours, theirs))
    assert first['backbones'] == second['backbones']
    assert (
        'backbone.stages.0.blocks.0.mlp.fc1.weight' not in ours['state_dict']
    ), 'it is frozen'
    assert_close(ours['state_dict'], theirs['state_dict'])
    momenta = [
        {
            f'{index} {key}': value
            for index, entry in file['optimizer']['state'].items()
            for key, value in entry.items()
        }
        for file in (ours, theirs)
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
