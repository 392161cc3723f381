"""Which runner and strategy a config asks for."""

import pytest
from mmengine.config import Config

from mmflora.config.engines import check_engine, use_cpu_wrapper

WRAPPER = dict(type='MMDistributedDataParallel', device_ids=None)


@pytest.mark.parametrize(
    'kind', ['FSDPStrategy', 'mmengine.FSDPStrategy', 'DeepSpeedStrategy']
)
def test_strategies_that_have_a_counterpart_are_refused(kind):
    cfg = dict(runner_type='FlexibleRunner', strategy=dict(type=kind))
    ours = kind.removeprefix('mmengine.')
    with pytest.raises(ValueError, match=rf"type='mmflora\.{ours}'"):
        check_engine(cfg)


def test_a_strategy_that_would_be_ignored_is_refused():
    cfg = dict(strategy=dict(type='mmflora.FSDPStrategy'))
    with pytest.raises(ValueError, match=r"'Runner' would ignore.*Flexible"):
        check_engine(cfg)


@pytest.mark.parametrize(
    'cfg',
    [
        dict(),
        dict(runner_type='FlexibleRunner'),
        dict(runner_type='FlexibleRunner', strategy=dict(type='DDPStrategy')),
        dict(
            runner_type='FlexibleRunner',
            strategy=dict(type='mmflora.FSDPStrategy'),
        ),
    ],
)
def test_others_pass(cfg):
    check_engine(cfg)


def test_the_wrapper_goes_where_the_runner_reads_it():
    cfg = Config(dict(runner_type='FlexibleRunner'))
    use_cpu_wrapper(cfg, WRAPPER)
    assert cfg.strategy == dict(type='DDPStrategy', model_wrapper=WRAPPER)
    sharded = dict(type='mmflora.FSDPStrategy')
    cfg = Config(dict(runner_type='FlexibleRunner', strategy=sharded))
    use_cpu_wrapper(cfg, WRAPPER)
    assert cfg.strategy == sharded
    cfg = Config(dict())
    use_cpu_wrapper(cfg, WRAPPER)
    assert cfg.model_wrapper_cfg == WRAPPER
    assert 'strategy' not in cfg
