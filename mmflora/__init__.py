"""mmflora: parameter-efficient fine-tuning for OpenMMLab.

Importing it registers its backbones, hooks and constructors, which any
configuration of MMDetection, MMRotate and MMSegmentation then names as
``mmflora.X``:

    custom_imports = dict(imports=['mmflora'], allow_failed_imports=False)

The functions here work on any module, whether a config built it or not:

    mmflora.inject(model, dict(type='FLoRA', rank=16))
    ...
    mmflora.save_adapter(model, 'cells.safetensors')
    mmflora.load_adapter(stock_model, 'cells.safetensors')

What importing it changes in the process stands in
:func:`mmflora.side_effects.install`.
"""

import logging

# MMEngine imports bitsandbytes wherever it is installed, and some processors
# then get a warning about kernels of matrix products, which nothing here uses.
logging.getLogger('bitsandbytes.backends.cpu.ops').setLevel(logging.ERROR)

from mmflora.side_effects import install  # noqa: E402
from mmflora.version import __version__  # noqa: E402

from . import (  # noqa: E402
    adapter_files,
    adapters,
    checkpoint,
    engine,
    models,
)
from .adapter_files import load_adapter, save_adapter  # noqa: E402
from .adapters import calibrate, disabled, inject, merge, unload  # noqa: E402
from .config.peft import peft_config  # noqa: E402

install()

__all__ = [
    'inject',
    'calibrate',
    'merge',
    'unload',
    'disabled',
    'save_adapter',
    'load_adapter',
    'peft_config',
    '__version__',
    'adapter_files',
    'adapters',
    'checkpoint',
    'engine',
    'models',
]
