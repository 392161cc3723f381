"""What the tools share: the config and the start of several processes."""

import argparse

import pytest
import torch.distributed as dist
from mmengine.config import Config

from mmflora.config import launch


def make_args(config, **options):
    defaults = dict(
        cfg_options=None, launcher='none', work_dir=None, local_rank=0
    )
    return argparse.Namespace(config=str(config), **{**defaults, **options})


@pytest.fixture
def config(tmp_path, monkeypatch):
    # It sets a default for the processes that it starts.
    monkeypatch.setenv('LOCAL_RANK', '0')
    path = tmp_path / 'small.py'
    path.write_text("a = dict(b=1)\ndefault_scope = 'mmdet'\n")
    return path


def test_work_dir_of_the_command_line_comes_first(config):
    assert launch.load_config(make_args(config)).work_dir == 'work_dirs/small'
    config.write_text("work_dir = 'own'\n")
    assert launch.load_config(make_args(config)).work_dir == 'own'
    args = make_args(config, work_dir='given')
    assert launch.load_config(args).work_dir == 'given'


def test_options_are_merged(config):
    args = make_args(config, cfg_options={'a.b': 2, 'a.c': 3})
    cfg = launch.load_config(args)
    assert cfg.a == dict(b=2, c=3)
    assert cfg.launcher == 'none'


def test_loaders_without_workers_have_no_options_of_theirs(config):
    loader = dict(num_workers=2, persistent_workers=True, prefetch_factor=4)
    config.write_text(f'train_dataloader = val_dataloader = {loader}')
    options = {'train_dataloader.num_workers': 0}
    cfg = launch.load_config(make_args(config, cfg_options=options))
    assert cfg.train_dataloader == dict(num_workers=0)
    assert cfg.val_dataloader == loader


@pytest.mark.parametrize('spelling', ['--local_rank', '--local-rank'])
def test_both_spellings_of_local_rank(spelling):
    parser = argparse.ArgumentParser()
    launch.add_arguments(parser)
    assert parser.parse_args([spelling, '3']).local_rank == 3


@pytest.mark.parametrize('launcher', launch.LAUNCHERS)
def test_says_what_a_launcher_lacks(launcher, monkeypatch):
    for name in launch.LAUNCHERS[launcher]:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=launch.LAUNCHERS[launcher][0]):
        launch.start_processes(Config(dict(launcher=launcher)))


@pytest.mark.parametrize('launcher', launch.LAUNCHERS)
def test_starts_gloo_without_a_gpu(launcher, monkeypatch):
    for name, value in zip(
        launch.LAUNCHERS[launcher], ('0', '1', '0'), strict=True
    ):
        monkeypatch.setenv(name, value)
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.setenv(name, '0' if name != 'WORLD_SIZE' else '1')
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    monkeypatch.setenv('MASTER_PORT', '0')
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    cfg = Config(
        dict(
            launcher=launcher,
            env_cfg=dict(dist_cfg=dict(backend='nccl')),
            model_wrapper_cfg=dict(static_graph=True),
            find_unused_parameters=True,
            model=dict(
                heads=[dict(norm_cfg=dict(type='SyncBN', eps=1e-3))],
                neck=dict(norm_cfg=dict(type='GN', num_groups=2)),
            ),
        )
    )
    try:
        launch.start_processes(cfg)
        assert dist.get_backend() == 'gloo'
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    assert cfg.env_cfg.dist_cfg.backend == 'gloo'
    assert cfg.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=True,
        static_graph=True,
        device_ids=None,
    )
    assert cfg.model.heads[0].norm_cfg == dict(type='BN', eps=1e-3)
    assert cfg.model.neck.norm_cfg.type == 'GN'


def test_leaves_the_start_to_mmengine_with_a_gpu(monkeypatch):
    for name in launch.LAUNCHERS['pytorch']:
        monkeypatch.setenv(name, '0')
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    cfg = Config(dict(launcher='pytorch', model=dict()))
    launch.start_processes(cfg)
    assert not dist.is_initialized()
    assert 'model_wrapper_cfg' not in cfg
