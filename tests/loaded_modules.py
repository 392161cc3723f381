"""Imported by the process from which PythonProcess forks: loads it all."""

import gc
from importlib import import_module

gc.disable()

import mmflora  # noqa: E402, F401
from mmflora.config.build import TOOLKITS  # noqa: E402

for packages in TOOLKITS.values():
    for package in packages:
        setup = import_module(f'{package}.utils')
        setup.register_all_modules(init_default_scope=False)
gc.freeze()
gc.enable()
