"""One of the processes that train the toy model, sharded or alone.

Usage, in the folder of the tests: python -m test_engine.fsdp_process FOLDER
BASE, with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in the
environment.
"""

import json
import os
import sys
from pathlib import Path

import torch
from mmengine.runner import FlexibleRunner
from python_process import PythonProcess, free_port
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

import mmflora  # noqa: F401

from .toy import Logits, ToyModel, backbone_cfg, runner


class EvenModel(ToyModel):
    """The toy model without what depends on batch or chance.

    In a test, process 1 calls the backbone once more than process 0.
    """

    def __init__(self, backbone):
        super().__init__(backbone)
        self.neck[1] = nn.GroupNorm(2, 8)
        self.dropout.p = 0.0

    def forward(self, inputs, labels=None, mode='tensor'):
        if mode == 'predict' and os.environ.get('RANK') == '1':
            self.backbone(inputs)
        return super().forward(inputs, labels, mode)


def sharded(work_dir, base, *, method=None, batch=2, strategy=None, **options):
    """Build a runner with FSDP, which one process runs as it is."""
    config = dict(backbone_cfg(base), **(method or {}))
    torch.manual_seed(0)
    built = runner(
        work_dir,
        config,
        kind=FlexibleRunner,
        model=EvenModel(config),
        strategy=dict(strategy or dict(type='mmflora.FSDPStrategy')),
        param_scheduler=dict(type='LinearLR', start_factor=0.1, end=6),
        **options,
    )
    for loader in (built._train_dataloader, built._test_dataloader):
        if loader is not None:
            loader['sampler'] = dict(type='DefaultSampler', shuffle=False)
            loader['batch_size'] = batch
    return built


SGD = dict(
    optim_wrapper=dict(
        constructor='mmflora.PEFTOptimWrapperConstructor',
        optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
        clip_grad=dict(max_norm=0.5),
    )
)
FULL = dict(type='mmflora.PEFTConvNeXt', adapter=dict(type='Full'))


def run_two(module, folder, *arguments):
    """Run a module of the tests in two processes; return their reports."""
    tests = Path(__file__).parents[1]
    paths = [str(tests), str(tests.parent), os.environ.get('PYTHONPATH', '')]
    shared = dict(
        os.environ,
        PYTHONPATH=':'.join(paths),
        WORLD_SIZE='2',
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=free_port(),
    )
    processes = [
        PythonProcess(
            ['-m', module, folder, *arguments],
            tests,
            folder / f'output{rank}.txt',
            dict(shared, RANK=str(rank), LOCAL_RANK=str(rank)),
        )
        for rank in range(2)
    ]
    for code, output in [process.finish() for process in processes]:
        assert code == 0, output[-6000:]
    return [
        json.loads((folder / f'rank{rank}.json').read_text())
        for rank in range(2)
    ]


def two_runs(folder, base, batch):
    """Train adapters, resume them, test them."""
    options = dict(batch=batch, **SGD)
    first = sharded(folder / 'whole', base, **options)
    first.train()
    scalars = first.message_hub.log_scalars
    half = folder / 'whole/epoch_1.pth'
    second = sharded(folder / 'half', base, **options)
    second._resume, second._load_from = True, str(half)
    second.train()
    # One by one, as MMEngine brings them together in the order of images.
    tested = sharded(
        folder / 'test', base, batch=1, test=True, load_from=str(half)
    )
    tested.test()
    return dict(
        losses=[float(x) for x in scalars['train/loss'].data[0]],
        norms=[float(x) for x in scalars['train/grad_norm'].data[0]],
        sharded=all(isinstance(p, DTensor) for p in first.model.parameters()),
        units=sum(isinstance(m, FSDPModule) for m in first.model.modules()),
        local=sum(
            p.to_local().numel() if isinstance(p, DTensor) else p.numel()
            for p in first.model.parameters()
        ),
        # Process 0 alone has the predictions of all.
        logits=Logits.last.tolist() if os.environ.get('RANK') != '1' else [],
    )


if __name__ == '__main__':
    torch.distributed.init_process_group('gloo')
    rank = torch.distributed.get_rank()
    target = Path(sys.argv[1])
    report = two_runs(target, sys.argv[2], batch=2)
    (target / f'rank{rank}.json').write_text(json.dumps(report))
    torch.distributed.destroy_process_group()
