"""mmflora: parameter-efficient fine-tuning for OpenMMLab.

Importing it registers its backbones, hooks and constructors, which any
configuration of MMDetection, MMRotate and MMSegmentation then names as
``mmflora.X``:

    custom_imports = dict(imports=['mmflora'], allow_failed_imports=False)
"""

from . import adapter_files, adapters, checkpoint, engine, models
from .config_scopes import register_config_scopes
from .version import __version__

register_config_scopes()

__all__ = [
    '__version__',
    'adapter_files',
    'adapters',
    'checkpoint',
    'engine',
    'models',
]
