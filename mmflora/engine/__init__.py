"""What the runner needs: optimizer construction, checkpoints, checks."""

from mmflora.checkpoint.roles import Role, parameter_roles
from mmflora.files.atomic import AtomicLocalBackend

from .hooks.adalora_hook import AdaLoRAHook
from .hooks.adapter_checkpoint_hook import AdapterCheckpointHook
from .hooks.adapter_gradient_hook import AdapterGradientHook
from .hooks.calibration_hook import CalibrationHook
from .hooks.iteration_seed_hook import IterationSeedHook
from .hooks.rank_annealing_hook import RankAnnealingHook
from .hooks.sampled_rank_hook import SampledRankHook
from .hooks.sara_hook import SaRAHook
from .hooks.snella_hook import SNELLAHook
from .hooks.update_statistics_hook import UpdateStatisticsHook
from .optimizer import PEFTOptimWrapperConstructor
from .parameter_table import count_parameters, parameter_table
from .strategies.deepspeed_strategy import DeepSpeedStrategy
from .strategies.fsdp_strategy import FSDPStrategy

__all__ = [
    'AdaLoRAHook',
    'AdapterCheckpointHook',
    'AdapterGradientHook',
    'AtomicLocalBackend',
    'CalibrationHook',
    'DeepSpeedStrategy',
    'FSDPStrategy',
    'IterationSeedHook',
    'PEFTOptimWrapperConstructor',
    'RankAnnealingHook',
    'Role',
    'SNELLAHook',
    'SaRAHook',
    'SampledRankHook',
    'UpdateStatisticsHook',
    'count_parameters',
    'parameter_roles',
    'parameter_table',
]
