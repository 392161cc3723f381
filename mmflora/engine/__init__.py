"""What the runner needs: optimizer construction, checkpoints, checks."""

from .adalora_hook import AdaLoRAHook
from .adapter_checkpoint_hook import AdapterCheckpointHook
from .adapter_gradient_hook import AdapterGradientHook
from .atomic_backend import AtomicLocalBackend
from .deepspeed_strategy import DeepSpeedStrategy
from .fsdp_strategy import FSDPStrategy
from .optim_constructor import PEFTOptimWrapperConstructor
from .parameter_table import count_parameters, parameter_table
from .roles import Role, parameter_roles
from .seed_hook import IterationSeedHook

__all__ = [
    'AdaLoRAHook',
    'AdapterCheckpointHook',
    'AdapterGradientHook',
    'AtomicLocalBackend',
    'DeepSpeedStrategy',
    'FSDPStrategy',
    'IterationSeedHook',
    'PEFTOptimWrapperConstructor',
    'Role',
    'count_parameters',
    'parameter_roles',
    'parameter_table',
]
