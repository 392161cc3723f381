"""The Python in README.md is true."""

import copy
import re
from pathlib import Path

from mmengine.config import Config
from torch import nn

import mmflora
from mmflora.adapters import adapted_layers
from mmflora.config.build import build_model

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(
    r'```python\n(.*?)```',
    (ROOT / 'README.md').read_text(encoding='utf-8'),
    re.S,
)


def block(sign):
    (text,) = [text for text in BLOCKS if sign in text]
    return text


def test_your_own_backbone(tmp_path):
    path = tmp_path / 'config.py'
    base = 'mmflora::_base_/peft_runtime.py'
    text = block('mmflora.PEFTBackbone')
    assert base in text
    # From the working tree, whether or not mmflora is installed.
    text = text.replace(
        repr(base), repr(str(ROOT / 'configs/_base_/peft_runtime.py'))
    )
    path.write_text(text, encoding='utf-8')
    cfg = Config.fromfile(path)
    hooks = {hook['type'] for hook in cfg.default_hooks.values()}
    assert {'mmflora.AdapterCheckpointHook', 'DetVisualizationHook'} < hooks
    constructor = 'mmflora.PEFTOptimWrapperConstructor'
    assert cfg.optim_wrapper.constructor == constructor
    assert cfg.optim_wrapper.optimizer.type == 'SGD'
    small = dict(embed_dims=8, num_heads=[1, 1, 2, 2], depths=[1, 1, 1, 2])
    cfg.model.backbone.backbone.update(small, init_cfg=None)
    cfg.model.backbone.peft.allow_random_base = True
    cfg.model.neck.in_channels = [8, 16, 32, 64]
    model = build_model(cfg)
    layers = adapted_layers(model.backbone)
    ranks = {name: layer.adapter.ranks for name, layer in layers.items()}
    assert ranks['stages.0.blocks.0.attn.w_msa.qkv'] == (16, 8)
    assert ranks['stages.3.blocks.1.attn.w_msa.qkv'] == (32, 32)
    assert not any(name.startswith('patch_embed') for name in ranks)


def test_from_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stock_model = nn.ModuleDict(
        {name: nn.Sequential(nn.Linear(4, 4)) for name in ('layer3', 'layer4')}
    )
    model = copy.deepcopy(stock_model)
    names = dict(model=model, stock_model=stock_model)
    exec(block('mmflora.inject'), names)
    assert (tmp_path / 'cells.safetensors').is_file()
    assert len(adapted_layers(stock_model)) == 2
    assert mmflora.adapters.adapted_modules(model) == {}
