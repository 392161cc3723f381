"""Every config parses and builds; the full-size ones follow the paper."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope

import mmflora  # noqa: F401
from mmflora.adapters import adapted_layers
from mmflora.data import CLASSES, PALETTE, SEG_CLASSES, SEG_PALETTE
from mmflora.launch import TOOLKITS, register_toolkit
from mmflora.preflight import find_dicts

CONFIGS = Path(__file__).parents[1] / 'configs'
ALL = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.glob('*/*.py')
    if path.parent.name != '_base_'
)
COCO = 'flora/mask-rcnn_convnextv2-l_flora-r16_coco.py'
DOTA = 'flora/oriented-rcnn-le90_convnextv2-l_flora-r16_dota.py'
ADE = 'flora/upernet_convnextv2-l_flora-r16_ade20k-512x512.py'
# The paper's table 9, and the images per GPU that make the batch on eight.
RECIPES = {
    COCO: ('AdamW', 1e-4, 0.05, 32, dict(max_epochs=12), 4),
    DOTA: ('SGD', 5e-3, 1e-4, 16, dict(max_epochs=12), 2),
    ADE: ('AdamW', 1e-4, 0.05, 16, dict(max_iters=160000), 2),
}
TWINS = {
    COCO: 'flora/mask-rcnn_convnextv2-atto_flora-r16_shapes.py',
    DOTA: 'flora/oriented-rcnn-le90_convnextv2-atto_flora-r16_shapes.py',
    ADE: 'flora/upernet_convnextv2-atto_flora-r16_shapes-128x128.py',
}
FULL_SIZE = pytest.mark.parametrize('name', RECIPES)
# FLoRA of rank 16 and kernel rank 2 on all 112 layers of ConvNeXt-V2-L.
ADAPTERS_L_R16 = 4_857_349
OUTPUT_NORMS_L = 2 * (192 + 384 + 768 + 1536)
BASE_L = 196_416_768
# Neck and heads, counted when the configs were written.
HEADS_L = {COCO: 20_642_544, DOTA: 17_611_306, ADE: 38_761_772}
# UperNet's own heads are a fifth of the frozen backbone.
SMALLER_L = {COCO: 8.51, DOTA: 9.52, ADE: 5.39}


def read(name, imports=True):
    path = str(CONFIGS / name)
    return Config.fromfile(path, import_custom_modules=imports)


def build(cfg):
    """Build the model without memory and without base weights."""
    register_toolkit(cfg)
    for _, module in find_dicts(cfg.model, 'model'):
        module.pop('init_cfg', None)
    with (
        DefaultScope.overwrite_default_scope(cfg.default_scope),
        torch.device('meta'),
    ):
        return MODELS.build(cfg.model)


def count(module, trainable=True):
    return sum(
        parameter.numel()
        for parameter in module.parameters()
        if parameter.requires_grad or not trainable
    )


def pipeline_types(cfg, loader):
    steps = cfg[loader].dataset.pipeline
    return [step['type'].removeprefix('mmdet.') for step in steps]


def names_of(cfg, loader):
    """Return root, annotations and folders of a loader's data set."""
    dataset = cfg[loader].dataset
    return dataset.data_root, dataset.get('ann_file'), dataset.data_prefix


@pytest.mark.parametrize('name', ALL)
def test_config_builds(name):
    cfg = read(name)
    stem = Path(name).stem
    method = 'full' if name.startswith('full/') else stem.split('_')[2]
    assert cfg.default_scope in TOOLKITS
    assert name.split('/')[0] == method.split('-')[0]
    assert stem.count('_') == 3, 'model_backbone_method_data'
    model = build(cfg)
    assert count(model, trainable=False) > count(model.backbone)
    assert bool(adapted_layers(model.backbone)) == (method[:5] == 'flora')
    for heads in model.children():
        if heads is not model.backbone:
            assert count(heads) == count(heads, trainable=False)


@pytest.mark.parametrize('name', ALL)
def test_evaluator_reads_the_data_of_its_loader(name):
    cfg = read(name, imports=False)
    for stage in ('val', 'test'):
        ann_file = cfg[f'{stage}_evaluator'].get('ann_file')
        root, annotations, _ = names_of(cfg, f'{stage}_dataloader')
        if ann_file is not None:
            assert ann_file == root + annotations
    assert names_of(cfg, 'val_dataloader') == names_of(cfg, 'test_dataloader')
    assert names_of(cfg, 'val_dataloader') != names_of(
        cfg, 'train_dataloader'
    ), 'validates on what it trains on'


@FULL_SIZE
def test_full_size_follows_the_recipe(name):
    optimizer, lr, decay, batch, schedule, per_gpu = RECIPES[name]
    cfg = read(name, imports=False)
    chosen = cfg.optim_wrapper.optimizer
    assert (chosen.type, chosen.lr, chosen.weight_decay) == (
        optimizer,
        lr,
        decay,
    )
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert cfg.train_dataloader.batch_size == per_gpu == batch // 8
    assert dict(cfg.train_cfg, **schedule) == cfg.train_cfg
    assert cfg.optim_wrapper.clip_grad.max_norm == 35
    constructor = cfg.optim_wrapper.constructor
    assert constructor == 'mmflora.PEFTOptimWrapperConstructor'
    hook = cfg.default_hooks.checkpoint
    assert hook.type == 'mmflora.AdapterCheckpointHook'
    assert cfg.model.backbone.autocast == 'bfloat16'
    assert cfg.model.backbone.adapter == dict(
        type='FLoRA', rank=16, kernel_rank=2, scale=4.0
    )


@FULL_SIZE
def test_full_size_has_the_golden_counts(name):
    model = build(read(name))
    layers = adapted_layers(model.backbone).values()
    assert len(layers) == 112
    assert sum(count(layer.adapter) for layer in layers) == ADAPTERS_L_R16
    trained = ADAPTERS_L_R16 + OUTPUT_NORMS_L
    assert count(model.backbone) == trained
    assert count(model.backbone, trainable=False) == BASE_L + trained
    assert count(model) == trained + HEADS_L[name]
    # What a file of adapters holds, against one of the whole model.
    whole = BASE_L + OUTPUT_NORMS_L + HEADS_L[name]
    ratio = whole / count(model)
    assert ratio == pytest.approx(SMALLER_L[name], abs=0.01)


@pytest.mark.parametrize(('large', 'small'), TWINS.items())
def test_twin_has_the_pipeline_of_the_large_one(large, small):
    cfg, twin = read(large, imports=False), read(small, imports=False)
    for loader in ('train_dataloader', 'val_dataloader'):
        assert pipeline_types(cfg, loader) == pipeline_types(twin, loader)
    assert cfg.default_scope == twin.default_scope
    wrapper, other = cfg.optim_wrapper, twin.optim_wrapper
    assert wrapper.constructor == other.constructor


@pytest.mark.parametrize(
    'name', [name for name in ALL if name.startswith('frozen/')]
)
def test_frozen_and_flora_differ_by_the_method_alone(name):
    flora = name.replace('frozen/', 'flora/').replace(
        '_frozen_', '_flora-r16_'
    )
    rest = []
    for path in (name, flora):
        cfg = read(path, imports=False).to_dict()
        method = cfg.pop('method')
        for key in method:
            assert cfg['model']['backbone'].pop(key) == method[key]
        rest.append(cfg)
    assert rest[0] == rest[1]


@pytest.mark.parametrize('name', [name for name in ALL if 'shapes' in name])
def test_twin_knows_the_generated_classes(name):
    cfg = read(name, imports=False)
    segmentation = cfg.default_scope == 'mmseg'
    classes = SEG_CLASSES if segmentation else CLASSES
    palette = SEG_PALETTE if segmentation else PALETTE
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        metainfo = cfg[loader].dataset.metainfo
        assert tuple(metainfo.classes) == classes
        assert tuple(map(tuple, metainfo.palette)) == palette
    counts = {
        node['num_classes']
        for _, node in find_dicts(cfg.model, 'model')
        if 'num_classes' in node
    }
    assert counts == {len(classes)}


def test_large_ones_know_the_classes_of_their_data():
    for name, expected in ((COCO, 80), (DOTA, 15), (ADE, 150)):
        cfg = read(name)
        register_toolkit(cfg)
        kind = cfg.val_dataloader.dataset.type
        dataset = DATASETS.get(f'{cfg.default_scope}.{kind}')
        assert len(dataset.METAINFO['classes']) == expected
        counts = {
            node['num_classes']
            for _, node in find_dicts(cfg.model, 'model')
            if 'num_classes' in node
        }
        assert counts == {expected}


def test_no_base_needs_mmflora_to_be_imported_first():
    for path in CONFIGS.rglob('*.py'):
        text = path.read_text()
        assert "'mmseg::" not in text
        assert "'mmflora::" not in text
