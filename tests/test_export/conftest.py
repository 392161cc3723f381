from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmflora.adapters import adapted_layers
from mmflora.checkpoint import adapter_state_dict
from mmflora.export import MergeOptions, build_model, merge_checkpoint
from mmflora.models import ConvNeXt

ROOT = Path(__file__).resolve().parents[2]
FLORA = ROOT / 'configs/flora'
CONFIGS = {
    'mmdet': FLORA / 'mask-rcnn_convnextv2-atto_flora-r16_shapes.py',
    'mmrotate': FLORA
    / 'oriented-rcnn-le90_convnextv2-atto_flora-r16_shapes.py',
    'mmseg': FLORA / 'upernet_convnextv2-atto_flora-r16_shapes-128x128.py',
}
BASE_KEY = 'model.backbone.init_cfg.checkpoint'
SIZE = (128, 128)


@dataclass
class Trained:
    """A small model as a training leaves it: config and checkpoint."""

    config: Path
    base: Path
    checkpoint: Path
    folder: Path

    def cfg(self, **options):
        cfg = Config.fromfile(self.config)
        cfg.merge_from_dict({BASE_KEY: str(self.base), **options})
        return cfg

    def merge(self, out, out_config=None, cfg=None, **options):
        """Merge without a word; return the report."""
        options.setdefault('size', SIZE)
        return merge_checkpoint(
            cfg or self.cfg(),
            str(self.checkpoint),
            out,
            out_config,
            MergeOptions(**options),
            say=lambda text: None,
        )


@torch.no_grad()
def randomise(model, seed=0):
    """Give every adapter, norm and statistic values that matter."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like, std):
        return torch.randn(like.shape, generator=generator) * std

    for layer in adapted_layers(model).values():
        for parameter in layer.adapter.parameters():
            fan = parameter[0].numel() if parameter.dim() > 1 else 1
            parameter.copy_(normal(parameter, fan**-0.5))
    for name, parameter in model.named_parameters():
        if 'norm' in name:
            parameter.add_(normal(parameter, 0.1))
        elif 'head' in name and parameter.dim() > 1:
            # Classes that differ, with scores below one.
            fan = parameter[0].numel()
            factor = 0.4 if 'cls' in name else 1.0
            parameter.copy_(normal(parameter, factor * fan**-0.5))
    for name, buffer in model.named_buffers():
        if name.endswith('running_mean'):
            buffer.copy_(normal(buffer, 0.1))
        elif name.endswith('running_var'):
            buffer.copy_(normal(buffer, 0.3).abs() + 0.7)


@torch.no_grad()
def random_base(path):
    """Write a base as a training over the source domain would."""
    torch.manual_seed(0)
    backbone = ConvNeXt('convnextv2_atto')
    for name, parameter in backbone.named_parameters():
        if '.grn.' in name:
            parameter.normal_(std=0.3)
    state = backbone.state_dict()
    torch.save(
        dict(state_dict={f'backbone.{key}': state[key] for key in state}),
        path,
    )


def train(config, folder, seed=0):
    """Write a random checkpoint of a small config, without its base."""
    base = folder / 'base.pth'
    random_base(base)
    trained = Trained(config, base, folder / 'adapters.pth', folder)
    cfg = trained.cfg()
    model = build_model(cfg)
    model.init_weights()
    randomise(model, seed)
    with adapter_state_dict():
        state = model.state_dict()
    assert 'backbone.stem.0.weight' not in state
    classes = tuple('abcdefg'[: 7 if 'upernet' in config.name else 6])
    palette = [(index, 0, 200) for index, _ in enumerate(classes)]
    meta = dict(dataset_meta=dict(classes=classes, palette=palette), epoch=3)
    torch.save(dict(meta=meta, state_dict=state), trained.checkpoint)
    return trained


@pytest.fixture(scope='session')
def trained_by_toolkit(tmp_path_factory):
    """Map each toolkit to its trained model."""
    return {
        toolkit: train(config, tmp_path_factory.mktemp(toolkit))
        for toolkit, config in CONFIGS.items()
    }


@pytest.fixture(scope='session')
def segmentor(trained_by_toolkit):
    return trained_by_toolkit['mmseg']


@pytest.fixture(scope='session')
def detector(trained_by_toolkit):
    return trained_by_toolkit['mmdet']


@pytest.fixture(scope='session')
def picture(tmp_path_factory):
    """Write a picture of colored boxes."""
    values = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    path = tmp_path_factory.mktemp('picture') / 'picture.png'
    Image.fromarray(values).resize((128, 128), Image.NEAREST).save(path)
    return path
