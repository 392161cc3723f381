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

from mmflora.collector import paused_collector  # noqa: E402

with paused_collector():
    from mmflora.side_effects import install
    from mmflora.version import __version__

    from . import (
        adapter_files,
        adapters,
        checkpoint,
        engine,
        models,
    )
    from .adapter_files import load_adapter, save_adapter
    from .adapters import calibrate, disabled, inject, merge, unload
    from .config.peft import peft_config

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
