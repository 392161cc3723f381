"""A whole model of four losses' size, to run MMEngine's Runner on."""

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmflora.adapter_files.convert import from_state
from mmflora.checkpoint.record import base_records
from mmflora.checkpoint.state import adapter_state_dict

TINY = dict(
    depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), use_grn=True, ls_init_value=None
)


class ToyModel(BaseModel):
    """A backbone, a neck with BatchNorm and a classifying head."""

    def __init__(self, backbone, num_classes=3):
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.neck = nn.Sequential(nn.Conv2d(32, 8, 1), nn.BatchNorm2d(8))
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, num_classes)

    def forward(self, inputs, labels=None, mode='tensor'):
        features = self.backbone(inputs)[-1]
        logits = self.head(self.dropout(self.neck(features).mean((2, 3))))
        if mode == 'loss':
            return dict(loss=F.cross_entropy(logits, labels))
        return [logits] if mode == 'predict' else logits


class ToyData(Dataset):
    """Twelve fixed pictures with labels."""

    metainfo = dict(classes=('a', 'b', 'c'))

    def __len__(self):
        return 12

    def __getitem__(self, index):
        source = torch.Generator().manual_seed(index)
        image = torch.randn(3, 32, 32, generator=source)
        return dict(inputs=image, labels=index % 3)


class AugmentedData(ToyData):
    """The same pictures, changed at random by all three generators."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        shift = random.random() + np.random.rand()
        item['inputs'] += shift + torch.randn(3, 32, 32)
        return item


class Logits(BaseMetric):
    """Keeps every prediction, so that runs can be compared exactly."""

    def process(self, data_batch, data_samples):
        self.results.extend(sample.clone() for sample in data_samples)

    def compute_metrics(self, results):
        Logits.last = torch.cat(results)
        return dict(first=float(self.last[0, 0]))


def backbone_cfg(checkpoint=None, **kwargs):
    """Return a tiny FLoRA backbone over the base in ``checkpoint``."""
    init_cfg = None
    if checkpoint is not None:
        init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint))
    return dict(
        type='mmflora.FLoRAConvNeXt',
        arch=TINY,
        adapter=dict(type='FLoRA', rank=4),
        init_cfg=init_cfg,
        **kwargs,
    )


def write_base(path: Path, seed=0):
    """Write a plain checkpoint of the tiny ConvNeXt."""
    torch.manual_seed(seed)
    model = MODELS.build(dict(type='mmflora.ConvNeXt', arch=TINY))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def adapter_of(model):
    """Return a model's adapter with all that a checkpoint's meta says."""
    backbones = {
        name: dict(tuned=list(record.tuned_keys))
        for name, (_, record) in base_records(model).items()
    }
    with adapter_state_dict():
        state = model.state_dict()
    return from_state(state, dict(mmflora=dict(backbones=backbones)), {})


def runner(
    work_dir,
    backbone,
    *,
    epochs=2,
    hook=None,
    test=False,
    kind=Runner,
    **kwargs,
) -> Runner:
    """Build a runner for the toy model."""
    init_default_scope('mmengine')
    torch.manual_seed(0)
    loader = dict(
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=not test),
        collate_fn=dict(type='default_collate'),
        dataset=ToyData(),
    )
    options = dict(
        model=ToyModel(backbone) if backbone else None,
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(
            type='OptimWrapper',
            constructor='mmflora.PEFTOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.05),
        ),
        param_scheduler=dict(type='LinearLR', start_factor=0.1, end=6),
        default_hooks=dict(
            checkpoint={
                'type': 'mmflora.AdapterCheckpointHook',
                'interval': 1,
                **(hook or {}),
            },
            logger=dict(type='LoggerHook', interval=1),
        ),
        custom_hooks=[
            dict(type='mmflora.AdapterGradientHook'),
            dict(type='mmflora.IterationSeedHook'),
        ],
        randomness=dict(seed=0),
        log_level='WARNING',
        experiment_name=f'toy_{id(work_dir)}_{runner.count}',
    )
    if test:
        options.update(
            test_dataloader=dict(
                loader, sampler=dict(type='DefaultSampler', shuffle=False)
            ),
            test_cfg=dict(),
            test_evaluator=Logits(),
        )
    runner.count += 1
    options.update(kwargs)
    return kind(**options)


runner.count = 0
