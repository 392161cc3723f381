"""The InternViT configs: parts, counts, the paper's and authors' recipes."""

import re
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config

import mmflora  # noqa: F401
from mmflora.adapters import adapted_layers
from mmflora.data import SEG_CLASSES
from mmflora.parameter_count import build_on_meta, count_model

CONFIGS = Path(__file__).parents[2] / 'configs'
ALL = sorted(
    str(path.relative_to(CONFIGS)) for path in CONFIGS.glob('*/*internvit*.py')
)
SOURCE = 'full/upernet_internvit-tiny_full_shapes-source.py'
LARGE = [name for name in ALL if '-6b' in name]
TINY = [name for name in ALL if '-tiny' in name and name != SOURCE]
METHOD = {
    'flora-r16': {'6b': 39_370_752, '6b-448px': 36_910_080},
    'flora-r8': {'6b': 19_673_088, '6b-448px': 18_443_520},
    'frozen': {'6b': 0, '6b-448px': 0},
}
PYRAMID = 3 * (4 * 3200 * 3200 + 3200) + 2 * 3200
PATH = re.compile(
    r'(\w+)/upernet_internvit-([\w-]+?)_([\w-]+?)(_80k)?_(ade20k|shapes)-.*'
)


def read(name, imports=True):
    return Config.fromfile(str(CONFIGS / name), import_custom_modules=imports)


@cache
def built(name):
    """Return the model of a config, without memory; not to be changed."""
    return build_on_meta(read(name))


@pytest.mark.parametrize('name', ALL)
def test_config_builds_and_is_its_bases(name):
    model = built(name)
    assert all(p.requires_grad for p in model.decode_head.parameters())
    folder, _, method, _, _ = PATH.fullmatch(name).groups()
    assert method.startswith(folder)
    lines = [
        line
        for line in (CONFIGS / name).read_text().splitlines()
        if line and line[0] != '#'
    ]
    if name != SOURCE:
        assert len(lines) == 8
        assert lines[-1] == 'model = dict(backbone=_base_.method)'


def test_there_are_both_models_with_both_ranks_and_schedules():
    found = {PATH.fullmatch(name).groups()[1:4] for name in LARGE}
    for model in ('6b', '6b-448px'):
        assert {(model, rank, None) for rank in METHOD} <= found
        assert (model, 'flora-r16', '_80k') in found
    assert len(TINY) == 2


@pytest.mark.parametrize('name', LARGE)
def test_large_ones_have_the_golden_counts(name):
    _, size, method, _, _ = PATH.fullmatch(name).groups()
    model = built(name)
    counted = count_model(model)
    # Position embeddings of 36 x 36 patches instead of 16 x 16.
    blocks = 48 if size == '6b' else 45
    assert counted.base == (
        blocks * 122_918_400 + 2_710_400 + (36**2 - 16**2) * 3200
    )
    assert counted.method == METHOD[method][size]
    assert counted.new == PYRAMID
    assert len(adapted_layers(model)) == 4 * blocks * (method != 'frozen')


@pytest.mark.parametrize('name', LARGE)
def test_large_ones_follow_the_recipe(name):
    _, size, method, short, _ = PATH.fullmatch(name).groups()
    cfg = read(name, imports=False)
    backbone, head = cfg.model.backbone, cfg.model.decode_head
    assert backbone.depth == (48 if size == '6b' else 45)
    assert backbone.out_indices == (
        (11, 23, 35, 47) if size == '6b' else (11, 22, 33, 44)
    )
    assert (backbone.dtype, backbone.autocast) == ('bfloat16', 'bfloat16')
    assert backbone.img_size == 504
    if method != 'frozen':
        rank = int(method.removeprefix('flora-r'))
        assert backbone.adapter == dict(type='FLoRA', rank=rank, scale=0.04)
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
    if backbone.adapter is not None:
        assert backbone.adapter == dict(type='FLoRA', rank=16, scale=0.04)
    assert cfg.model.decode_head.num_classes == len(SEG_CLASSES)
    source = read(SOURCE, imports=False)
    base = Path(backbone.init_cfg.checkpoint)
    assert str(base.parent) == source.work_dir
    assert source.default_hooks.checkpoint.filename_tmpl == base.name
