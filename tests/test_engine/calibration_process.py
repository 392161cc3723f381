"""One of the processes that make starts from data, alone or of two.

Usage, in the folder of the tests: python -m test_engine.calibration_process
FOLDER BASE, with RANK and its like in the environment.
"""

import json
import sys
from pathlib import Path

import torch
from mmengine.dist import get_rank

from mmflora.adapters import adapted_modules
from mmflora.engine import CalibrationHook

from .fsdp_process import EvenModel
from .toy import backbone_cfg, runner

METHODS = {
    'CorDA': dict(type='CorDA', rank=2),
    'LoRASB': dict(type='LoRASB', rank=4, step=1e-3),
    'FLoRA': dict(type='FLoRA', rank=4, start='gradient'),
}


def starts(folder, base, method, batch, **options):
    """Make the starts of a method; return them by layer."""
    config = backbone_cfg(base)
    config.pop('adapter')
    peft = dict(adapter=METHODS[method], calibration=dict(batches=2))
    config = dict(config, type='mmflora.PEFTConvNeXt', peft=peft)
    torch.manual_seed(0)
    built = runner(
        folder,
        None,
        model=EvenModel(config),
        **options,
    )
    built._train_dataloader['sampler']['shuffle'] = False
    built._train_dataloader['batch_size'] = batch
    CalibrationHook().before_train(built)
    model = getattr(built.model, 'module', built.model)
    return {
        name: {k: v.clone() for k, v in layer.adapter.state_dict().items()}
        for name, layer in adapted_modules(model).items()
    }


if __name__ == '__main__':
    torch.distributed.init_process_group('gloo')
    folder, base = map(Path, sys.argv[1:])
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None)
    options = dict(launcher='pytorch', cfg=dict(model_wrapper_cfg=wrapper))
    found = {
        method: starts(folder / method, base, method, 2, **options)
        for method in METHODS
    }
    torch.save(found, folder / f'starts{get_rank()}.pth')
    report = folder / f'rank{get_rank()}.json'
    report.write_text(json.dumps(list(found)))
    torch.distributed.destroy_process_group()
