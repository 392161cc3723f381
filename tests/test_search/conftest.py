"""A toy supernet, trained, and a config that builds its runner."""

import pytest
import torch
from mmengine.config import Config
from test_engine.toy import Logits, backbone_cfg, runner, write_base
from torch.nn.functional import cross_entropy

from mmflora.adapter_files.read import read_any
from mmflora.search import search_run, supernet

SUPERNET = dict(
    type='MatryoshkaFLoRA',
    **dict(rank=4, scale=1.0, ranks=[0, 1, 4], sampled=True, per_layer=True),
)


class Agreement(Logits):
    """The share of right answers, and the loss."""

    def process(self, data_batch, data_samples):
        logits, labels = torch.cat([*data_samples]), data_batch['labels']
        right = (logits.argmax(1) == labels).tolist()
        losses = cross_entropy(logits, labels, reduction='none').tolist()
        self.results += zip(right, losses, strict=True)

    def compute_metrics(self, results):
        right, losses = zip(*results, strict=True)
        return dict(
            accuracy=sum(map(float, right)) / len(right),
            loss=sum(losses) / len(losses),
        )


def train(folder, adapter, name='run', epochs=2):
    """Train the toy with an adapter; return its checkpoint."""
    base = folder / 'base.pth'
    if not base.exists():
        write_base(base)
    config = {**backbone_cfg(base), 'adapter': adapter}
    hooks = ('SampledRankHook', 'IterationSeedHook', 'AdapterGradientHook')
    built = runner(
        folder / name,
        config,
        epochs=epochs,
        custom_hooks=[dict(type=f'mmflora.{hook}') for hook in hooks],
    )
    built.train()
    return folder / name / f'epoch_{epochs}.pth'


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('supernet')
    return train(folder, SUPERNET)


@pytest.fixture
def adapter(trained):
    return read_any(trained)


def config_for(folder, adapter=SUPERNET, **changes):
    """Return a config of the toy, with validation data."""
    backbone = {**backbone_cfg(folder / 'base.pth'), 'adapter': adapter}
    whole = dict(
        model=dict(type='ToyModel', backbone=backbone),
        val_dataloader=dict(dataset=dict(type='ToyData')),
        val_evaluator=dict(type='Agreement'),
        default_hooks=dict(checkpoint=dict(save_best='accuracy')),
        work_dir=str(folder / 'search'),
        **changes,
    )
    return Config(whole)


@pytest.fixture
def toy_runs(monkeypatch):
    """Let configs of the toy build its runner; count the tests."""
    tests = []

    def build(cfg):
        built = runner(
            cfg.work_dir,
            cfg.model.backbone.to_dict(),
            test=True,
            test_evaluator=Agreement(),
            load_from=cfg.load_from,
        )
        test = built.test

        def counted():
            tests.append(1)
            return test()

        built.test = counted
        return built

    monkeypatch.setattr(supernet, 'build_runner', build)
    monkeypatch.setattr(supernet, 'check_classes', lambda cfg, stage: None)
    assert search_run.Supernet is supernet.Supernet
    return tests
