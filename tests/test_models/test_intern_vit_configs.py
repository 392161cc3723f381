"""The InternViT configs: parts, counts, the paper's and authors' recipes."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

import mmflora  # noqa: F401
from demo.shapes import SEG_CLASSES
from mmflora.adapters import adapted_layers
from mmflora.count.parameters import build_on_meta, count_model

CONFIGS = Path(__file__).parents[2] / 'configs'
ALL = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.glob('*/*internvit*.py')
    # Those over a quantized base have a test file of their own.
    if not re.search('_(int8|nf4)_', path.name)
)
SOURCE = 'full/upernet_internvit-tiny_full_shapes-source.py'
LARGE = [name for name in ALL if '-6b' in name]
TINY = [name for name in ALL if '-tiny' in name and name != SOURCE]
BLOCKS = {'6b': 48, '6b-448px': 45}
# What each method trains in a block, worked out from the shapes of its four
# linear layers, and in the patch embedding.
INPUTS, OUTPUTS, BIASES = 22_400, 28_800, 19_200
PER_BLOCK = {
    'frozen': 0,
    'bitfit': BIASES,
    **{f'lora-r{r}': r * (INPUTS + OUTPUTS) for r in (8, 16)},
    **{f'dora-r{r}': r * (INPUTS + OUTPUTS) + OUTPUTS for r in (8, 16)},
    **{f'flora-r{r}': r * (INPUTS + OUTPUTS) + 4 * r**2 for r in (8, 16, 32)},
    'rein': 100 * 16 + 16 * 3200,
    'vpt-deep': 50 * 3200,
    # Prompts, LoRA of queries, keys and values, and a bottleneck.
    'noah': 50 * 3200 + 50 * 4 * 3200 + 50 * (2 * 3200 + 1) + 3200,
}
# In the first block, or for all together.
ONCE = {'rein': 2 * (3200**2 + 3200) + 1, 'vpt-shallow': 50 * 3200}
GOLDEN = {
    ('6b', 'bitfit'): 924_800,
    ('6b', 'lora-r8'): 19_660_800,
    ('6b', 'lora-r16'): 39_321_600,
    ('6b', 'dora-r8'): 21_043_200,
    ('6b', 'dora-r16'): 40_704_000,
    ('6b', 'flora-r8'): 19_673_088,
    ('6b', 'flora-r16'): 39_370_752,
    ('6b', 'flora-r32'): 78_839_808,
    ('6b-448px', 'flora-r8'): 18_443_520,
    ('6b-448px', 'flora-r16'): 36_910_080,
}
ADAPTERS = {'flora': 'FLoRA', 'lora': 'LoRA', 'dora': 'DoRA'}
MAIN = ('frozen', 'full', 'bitfit', 'lora-r16', 'dora-r16', 'flora-r16')
PYRAMID = 3 * (4 * 3200 * 3200 + 3200) + 2 * 3200
PATH = re.compile(
    r'(\w+)/upernet_internvit-([\w-]+?)_([\w-]+?)'
    r'(?:_(fsdp|deepspeed-zero[23]))?(_80k)?_(ade20k|shapes)-.*'
)


@cache
def read(name, imports=True):
    """Return a config; not to be changed."""
    return Config.fromfile(str(CONFIGS / name), import_custom_modules=imports)


BUILT: dict[str, Any] = {}


def built(name):
    """Return the model of a config, without memory; not to be changed."""
    cfg = read(name)
    key = str(cfg.model.to_dict())
    if key not in BUILT:
        BUILT[key] = build_on_meta(cfg)
    return BUILT[key]


def built_in_turn(names):
    """Leave models that differ from another in their depth to slow runs."""
    return [
        pytest.param(name, marks=pytest.mark.slow)
        if '448px' in name and 'flora-r16' not in name
        else name
        for name in names
    ]


@pytest.mark.parametrize('name', built_in_turn(ALL))
def test_config_builds_and_is_its_bases(name):
    model = built(name)
    assert all(p.requires_grad for p in model.decode_head.parameters())
    folder, _, method, engine, _, _ = PATH.fullmatch(name).groups()
    assert method.startswith(folder)
    lines = [
        line
        for line in (CONFIGS / name).read_text().splitlines()
        if line and line[0] != '#'
    ]
    if name == SOURCE:
        return
    assert len(lines) == 8 + (engine is not None)
    if method.startswith('flora') and engine == 'deepspeed-zero2':
        assert lines[-1] == (
            'model = dict(backbone=dict(_base_.method, dtype=None))'
        )
    else:
        assert lines[-1] == 'model = dict(backbone=_base_.method)'


def test_table_2_is_there_in_both_schedules():
    found = {PATH.fullmatch(name).groups()[1:5] for name in LARGE}
    for method in (*PER_BLOCK, *ONCE, 'full'):
        assert ('6b', method, None, None) in found
    for size in BLOCKS:
        for method in MAIN:
            assert (size, method, None, None) in found
            assert (size, method, None, '_80k') in found
        assert (size, 'full', 'fsdp', None) in found
        assert (size, 'flora-r16', 'fsdp', None) in found
    assert len(found) == len(LARGE)
    assert [PATH.fullmatch(name)[3] for name in TINY] == [
        *('bitfit', 'dora-r16', 'flora-r16', 'frozen', 'full', 'lora-r16'),
        *('noah', 'rein', 'vpt-deep', 'vpt-shallow'),
    ]


@pytest.mark.parametrize('name', built_in_turn(LARGE))
def test_large_ones_have_the_golden_counts(name):
    _, size, method, _, _, _ = PATH.fullmatch(name).groups()
    model = built(name)
    counted = count_model(model)
    # Position embeddings of 36 x 36 patches instead of 16 x 16.
    blocks = BLOCKS[size]
    assert counted.base == (
        blocks * 122_918_400 + 2_710_400 + (36**2 - 16**2) * 3200
    )
    if method == 'full':
        assert counted.method == counted.base
    else:
        patches = 3200 if method == 'bitfit' else 0
        own = blocks * PER_BLOCK.get(method, 0) + ONCE.get(method, 0)
        assert counted.method == own + patches
        assert counted.method == GOLDEN.get((size, method), counted.method)
    assert counted.new == PYRAMID
    layers = 4 if method.split('-')[0] in ADAPTERS else method == 'noah'
    assert len(adapted_layers(model)) == layers * blocks


@pytest.mark.parametrize('name', built_in_turn(LARGE))
def test_what_trains_is_in_float32(name):
    _, _, method, engine, _, _ = PATH.fullmatch(name).groups()
    parameters = list(built(name).parameters())
    trained = {p.dtype for p in parameters if p.requires_grad}
    frozen = {p.dtype for p in parameters if not p.requires_grad}
    assert trained == {torch.float32}
    if method == 'full':
        assert not frozen
    elif engine == 'deepspeed-zero2':
        assert frozen == {torch.float32}
    else:
        assert frozen == {torch.bfloat16}


@pytest.mark.parametrize('name', LARGE)
def test_large_ones_follow_the_recipe(name):
    _, size, method, engine, short, _ = PATH.fullmatch(name).groups()
    cfg = read(name, imports=False)
    backbone, head = cfg.model.backbone, cfg.model.decode_head
    assert backbone.depth == BLOCKS[size]
    assert backbone.out_indices == (
        (11, 23, 35, 47) if size == '6b' else (11, 22, 33, 44)
    )
    assert backbone.autocast == 'bfloat16'
    assert backbone.img_size == 504
    kind, _, rank = method.partition('-r')
    if kind in ADAPTERS:
        scale = dict(scale=0.04) if kind == 'flora' else dict(alpha=16)
        assert backbone.peft.adapter == dict(
            type=ADAPTERS[kind], rank=int(rank), **scale
        )
    decay = 0.95 if method == 'full' and short else None
    assert cfg.optim_wrapper.paramwise_cfg.get('layer_decay') == decay
    runner = 'FlexibleRunner' if engine else None
    assert cfg.get('runner_type') == runner
    assert (head.channels, head.num_classes) == (1536, 150)
    assert cfg.model.data_preprocessor.size == (504, 504)
    assert cfg.model.test_cfg == dict(
        mode='slide', crop_size=(504, 504), stride=(322, 322)
    )
    for loader in ('train_dataloader', 'val_dataloader'):
        scales = [
            step['scale']
            for step in cfg[loader].dataset.pipeline
            if 'scale' in step
        ]
        assert scales == [(2016, 504)]
    crop = cfg.train_dataloader.dataset.pipeline[3]
    assert crop == dict(
        type='RandomCrop', crop_size=(504, 504), cat_max_ratio=0.75
    )
    iters, rate = (80000, 4e-5) if short else (160000, 1e-4)
    assert cfg.train_cfg.max_iters == iters
    assert cfg.optim_wrapper.optimizer.lr == rate
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.05
    warm_up, decay = cfg.param_scheduler
    assert (warm_up.end, decay.begin, decay.end) == (1500, 1500, iters)
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.default_hooks.checkpoint.type == 'mmflora.AdapterCheckpointHook'


@pytest.mark.parametrize('name', TINY)
def test_twins_are_like_the_large_ones(name):
    cfg, large = read(name, imports=False), read(LARGE[0], imports=False)
    kinds = [
        [step['type'] for step in config[loader].dataset.pipeline]
        for config in (cfg, large)
        for loader in ('train_dataloader', 'val_dataloader')
    ]
    assert kinds[:2] == kinds[2:]
    backbone = cfg.model.backbone
    assert backbone.with_cp is True
    folder, _, method, *_ = PATH.fullmatch(name).groups()
    twin = f'{folder}/upernet_internvit-6b_{method}_ade20k'
    of_large = read(f'{twin}-504x504.py', imports=False).model.backbone
    for key in ('type', 'peft'):
        assert backbone.get(key) == of_large.get(key)
    assert cfg.model.decode_head.num_classes == len(SEG_CLASSES)
    source = read(SOURCE, imports=False)
    base = Path(backbone.init_cfg.checkpoint)
    assert str(base.parent) == source.work_dir
    assert source.default_hooks.checkpoint.filename_tmpl == base.name
