"""Registries of mmflora, children of MMEngine's roots.

A configuration of any toolkit names a module of mmflora as ``mmflora.X``:
MMEngine resolves the scope from the root, whichever ``default_scope`` the
toolkit has set.  ``ADAPTERS`` holds the methods (FLoRA first); it is a root of
its own, as no other library knows adapters.
"""

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
)
from mmengine.registry import STRATEGIES as MMENGINE_STRATEGIES
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmflora',
    locations=['mmflora.models'],
)
METRICS = Registry(
    'metric',
    parent=MMENGINE_METRICS,
    scope='mmflora',
    locations=['mmflora.evaluation'],
)
HOOKS = Registry(
    'hook',
    parent=MMENGINE_HOOKS,
    scope='mmflora',
    locations=['mmflora.engine'],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optim_wrapper_constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmflora',
    locations=['mmflora.engine'],
)
STRATEGIES = Registry(
    'strategy',
    parent=MMENGINE_STRATEGIES,
    scope='mmflora',
    locations=['mmflora.engine'],
)
ADAPTERS = Registry('adapter', scope='mmflora', locations=['mmflora.adapters'])
