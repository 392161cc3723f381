"""Checkpoints of FlexibleRunner are the ordinary ones."""

import pytest
import torch
import torch.distributed as dist
from mmengine.runner import FlexibleRunner

from .toy import Logits, backbone_cfg, runner

DDP = dict(
    type='DDPStrategy',
    model_wrapper=dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        # Norms of the features that the toy's head leaves out.
        find_unused_parameters=True,
    ),
)


@pytest.fixture
def one_process(tmp_path, monkeypatch):
    """A process group of one."""
    values = dict(
        RANK=0, WORLD_SIZE=1, LOCAL_RANK=0, MASTER_ADDR='x', MASTER_PORT=1
    )
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    store = dist.FileStore(str(tmp_path / 'store'), 1)
    dist.init_process_group('gloo', store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def flexible(work_dir, base, **options):
    return runner(work_dir, backbone_cfg(base), kind=FlexibleRunner, **options)


def read(path):
    return torch.load(path, weights_only=True)


@pytest.fixture(params=[None, DDP, dict(type='mmflora.FSDPStrategy')])
def strategy(request):
    """The default, a wrapped model, and one that is sharded in place."""
    if request.param is not None:
        request.getfixturevalue('one_process')
    return request.param


def test_checkpoint_is_that_of_the_ordinary_runner(tmp_path, base, strategy):
    ordinary = runner(tmp_path / 'ordinary', backbone_cfg(base))
    expected = set(ordinary.model.state_dict())
    expected -= {
        f'backbone.{key}'
        for key in ordinary.model.backbone.base_record.base_keys
    }
    built = flexible(tmp_path / 'run', base, strategy=strategy)
    built.train()
    path = tmp_path / 'run/epoch_2.pth'
    checkpoint = read(path)
    assert set(checkpoint['state_dict']) == expected
    assert checkpoint['meta']['mmflora']['backbones']['backbone']['base']
    assert '' in checkpoint['state_dict']._metadata

    resumed = flexible(tmp_path / 'half', base, strategy=strategy)
    resumed._resume, resumed._load_from = True, tmp_path / 'run/epoch_1.pth'
    resumed._load_from = str(resumed._load_from)
    resumed.train()
    again = read(tmp_path / 'half/epoch_2.pth')['state_dict']
    for key, value in checkpoint['state_dict'].items():
        assert torch.equal(value, again[key]), key

    tests = [
        flexible(
            tmp_path / 'test',
            base,
            strategy=strategy,
            test=True,
            load_from=str(path),
        ),
        runner(
            tmp_path / 'test',
            backbone_cfg(base),
            test=True,
            load_from=str(path),
        ),
    ]
    logits = []
    for test in tests:
        test.test()
        logits.append(Logits.last)
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-6)


def test_a_part_of_a_checkpoint_is_refused(tmp_path, base, one_process):
    built = flexible(tmp_path / 'run', base, strategy=DDP, epochs=1)
    built.train()
    path = tmp_path / 'run/epoch_1.pth'
    checkpoint = read(path)
    del checkpoint['state_dict']['head.weight']
    torch.save(checkpoint, path)
    tested = flexible(
        tmp_path / 'test',
        base,
        strategy=DDP,
        test=True,
        load_from=str(path),
    )
    with pytest.raises(ValueError, match=r'missing in the file: head\.weight'):
        tested.test()
