"""Which of MMEngine's runners and strategies a config asks for."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

FLEXIBLE = 'FlexibleRunner'
# MMEngine's strategies that know nothing of frozen parameters, and ours.
_INSTEAD = {
    'FSDPStrategy': 'mmflora.FSDPStrategy',
    'DeepSpeedStrategy': 'mmflora.DeepSpeedStrategy',
    'ColossalAIStrategy': 'mmflora.FSDPStrategy',
}


def check_engine(cfg: Mapping[str, Any]) -> None:
    """Refuse a strategy that would be ignored, or loses the frozen base.

    Raises:
        ValueError: If ``runner_type`` and ``strategy`` do not fit, or the
            strategy is one of MMEngine's that has a counterpart here.
    """
    strategy = cfg.get('strategy')
    runner = cfg.get('runner_type', 'Runner')
    if strategy is None:
        return
    kind = str(strategy.get('type', ''))
    if runner != FLEXIBLE:
        raise ValueError(
            f"The config has the strategy '{kind}', which the runner "
            f"'{runner}' would ignore. Add runner_type='{FLEXIBLE}', or leave "
            'the strategy out.'
        )
    ours = _INSTEAD.get(kind.removeprefix('mmengine.'))
    if ours:
        raise ValueError(
            f"MMEngine's {kind} does not keep frozen bases apart from what "
            f"trains, in memory and in checkpoints. Set strategy.type='{ours}'"
            ' (see docs/distributed.md).'
        )


def use_cpu_wrapper(cfg: Config, wrapper: Mapping[str, Any]) -> None:
    """Set how models are wrapped for several processes on the CPU.

    Args:
        cfg: The config; it is changed.
        wrapper: The settings of ``MMDistributedDataParallel``.
    """
    cfg.model_wrapper_cfg = dict(wrapper)
    strategy = cfg.get('strategy') or dict(type='DDPStrategy')
    if cfg.get('runner_type') == FLEXIBLE and strategy['type'] in (
        'DDPStrategy',
        'mmengine.DDPStrategy',
    ):
        cfg.strategy = dict(strategy, model_wrapper=dict(wrapper))
