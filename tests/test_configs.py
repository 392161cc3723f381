"""Every config parses and builds; the full-size ones follow the paper."""

import ast
import copy
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

import mmflora  # noqa: F401
from demo.shapes import CLASSES, PALETTE, SEG_CLASSES, SEG_PALETTE
from mmflora.adapters import adapted_layers
from mmflora.config.build import TOOLKITS
from mmflora.config.classes import check_classes
from mmflora.config.walk import find_dicts
from mmflora.count.parameters import build_on_meta, count_model
from mmflora.models.peft_options import peft_settings

CONFIGS = Path(__file__).parents[1] / 'configs'
ALL = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.glob('*/*.py')
    # Other backbones have test files of their own.
    if path.parent.name != '_base_' and 'convnextv2' in path.name
)
# Trains the base of the small ones, with a schedule of its own.
SOURCE = 'full/mask-rcnn_convnextv2-atto_full_shapes-source.py'
# Full fine-tuning with falling rates: over another config, not over bases.
DECAYED = [name for name in ALL if '_full-layer-decay_' in name]
GRID = [name for name in ALL if name != SOURCE and name not in DECAYED]
# What a method needs beside its backbone.
HOOKED = {
    'adalora-r8': dict(type='mmflora.AdaLoRAHook'),
    'lora-squeeze-r16': dict(type='mmflora.RankAnnealingHook', ranks=[8, 4]),
    'flora-squeeze-r16': dict(type='mmflora.RankAnnealingHook', ranks=[8, 4]),
    'sara': dict(type='mmflora.SaRAHook'),
    'snella-r16': dict(type='mmflora.SNELLAHook'),
}
# The paper's table 9, and the images per GPU that make the batch on eight.
COCO = ('mask-rcnn_convnextv2-l', 'coco')
DOTA = ('oriented-rcnn-le90_convnextv2-l', 'dota')
ADE = ('upernet_convnextv2-l', 'ade20k-512x512')
RECIPES = {
    COCO: ('AdamW', 1e-4, 0.05, 32, dict(max_epochs=12), 4),
    DOTA: ('SGD', 5e-3, 1e-4, 16, dict(max_epochs=12), 2),
    ADE: ('AdamW', 1e-4, 0.05, 16, dict(max_iters=160000), 2),
}
SMALL = {
    COCO: ('mask-rcnn_convnextv2-atto', 'shapes'),
    DOTA: ('oriented-rcnn-le90_convnextv2-atto', 'shapes'),
    ADE: ('upernet_convnextv2-atto', 'shapes-128x128'),
}
BASE_L = 196_416_768
BASE_ATTO = 3_386_760
# What each method of the paper's table 1 trains in ConvNeXt-V2-L, beside the
# norms of its outputs: worked out from the shapes of its 112 layers.
GOLDEN_L = {
    'frozen': 0,
    'full': BASE_L,
    'bitfit': 193_920,
    'lora-r8': 12_946_080,
    'lora-r16': 25_892_160,
    'lora-r32': 51_784_320,
    'dora-r8': 13_111_392,
    'dora-r16': 26_057_472,
    'dora-r32': 51_949_632,
    'flora-r16': 4_857_349,
    'flora-r42': 12_840_493,
    'flora-r83': 25_660_045,
    'flora-r130': 40_703_053,
}
# These are in all three small settings, every method in Mask R-CNN's.
IN_ALL_SMALL = (
    'frozen',
    'full',
    'bitfit',
    'lora-r8',
    'dora-r8',
    'flora-r16',
)
# The stock backbone, which has no method.
PLAIN = {'plain'}
OUTPUT_NORMS_L = 2 * (192 + 384 + 768 + 1536)
# Neck and heads, counted when the configs were written.
HEADS_L = {COCO: 20_642_544, DOTA: 17_611_306, ADE: 38_761_772}
# UperNet's own heads are a fifth of the frozen backbone.
SMALLER_L = {COCO: 8.51, DOTA: 9.52, ADE: 5.39}


def path_of(setting, method):
    """Return the name of a cell of the grid."""
    folder = re.sub(r'-r\d+$', '', method)
    return f'{folder}/{setting[0]}_{method}_{setting[1]}.py'


def parts_of(name):
    """Split a name into its setting (model and backbone, data), method."""
    model, backbone, method, data = Path(name).stem.split('_')
    return (f'{model}_{backbone}', data), method


TABLE_1 = {
    path_of(setting, method): (setting, method)
    for setting in RECIPES
    for method in GOLDEN_L
}
FULL_SIZE = pytest.mark.parametrize('name', TABLE_1)


def built_slowly(names):
    """Mark further ranks on further data: the backbone is COCO's."""
    first = {path_of(COCO, method) for method in GOLDEN_L}
    slow = {
        name
        for name in TABLE_1
        if name not in first and TABLE_1[name][1] not in IN_ALL_SMALL
    }
    return [
        pytest.param(name, marks=[pytest.mark.slow] if name in slow else [])
        for name in names
    ]


@cache
def read(name):
    """Return a config; not to be changed."""
    return Config.fromfile(str(CONFIGS / name))


@cache
def built(name):
    """Return the model of a config, without memory; not to be changed."""
    return build_on_meta(read(name))


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


def code_lines(name):
    text = (CONFIGS / name).read_text()
    return [line for line in text.splitlines() if line and line[0] != '#']


def bases_of(name):
    """Return the files that a config's `_base_` lists, by folder."""
    tree = ast.parse((CONFIGS / name).read_text())
    bases = ast.literal_eval(tree.body[0].value)
    return {Path(base).parent.name: Path(base).stem for base in bases}


@pytest.mark.parametrize('name', built_slowly(ALL))
def test_config_builds(name):
    model = built(name)
    counted = count_model(model)
    trains = name == SOURCE or parts_of(name)[1] != 'frozen'
    assert (counted.method > 0) == trains
    assert counted.base in (BASE_L, BASE_ATTO)
    assert counted.total > counted.base + counted.neck + counted.heads
    for heads in model.children():
        if heads is not model.backbone:
            assert all(p.requires_grad for p in heads.parameters())


@pytest.mark.parametrize('name', GRID)
def test_name_says_what_the_config_is_made_of(name):
    setting, method = parts_of(name)
    assert name == path_of(setting, method)
    assert read(name).default_scope in TOOLKITS
    bases = bases_of(name)
    assert bases['models'] == setting[0]
    assert bases['methods'] == method
    rank = re.search(r'-r(\d+)$', method)
    adapter = peft_settings(read(name).model.backbone).get('adapter') or {}
    names = ('rank', 'r', 'target_r')
    own = next((adapter[key] for key in names if key in adapter), None)
    assert own == (int(rank[1]) if rank else None)


@pytest.mark.parametrize('name', GRID)
def test_config_is_its_bases_and_no_more(name):
    lines = code_lines(name)
    hooked = parts_of(name)[1] in HOOKED
    assert len(lines) == 8 + hooked
    assert lines[7] == 'model = dict(backbone=_base_.method)'
    assert len(bases_of(name)) == 5


def test_grid_has_every_row_of_the_tables():
    small = {
        path_of(setting, method)
        for setting in SMALL.values()
        for method in IN_ALL_SMALL
    }
    methods = {path.stem for path in (CONFIGS / '_base_/methods').glob('*.py')}
    ranks = set(GOLDEN_L) - set(IN_ALL_SMALL)
    mask_rcnn = {
        path_of(SMALL[COCO], method) for method in methods - ranks - PLAIN
    }
    assert TABLE_1.keys() | small | mask_rcnn == set(GRID)


@pytest.mark.parametrize('name', ALL)
def test_evaluator_reads_the_data_of_its_loader(name):
    cfg = read(name)
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
    setting, _ = TABLE_1[name]
    optimizer, lr, decay, batch, schedule, per_gpu = RECIPES[setting]
    cfg = read(name)
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


@pytest.mark.parametrize('name', built_slowly(TABLE_1))
def test_full_size_has_the_golden_counts(name):
    setting, method = TABLE_1[name]
    counted = count_model(built(name))
    assert counted.base == BASE_L
    assert counted.method == GOLDEN_L[method]
    assert counted.new == OUTPUT_NORMS_L
    assert counted.neck + counted.heads == HEADS_L[setting]


def test_flora_is_as_the_paper_sets_it():
    name = path_of(COCO, 'flora-r16')
    assert read(name).model.backbone.peft.adapter == dict(
        type='FLoRA', rank=16, kernel_rank=2, scale=4.0
    )
    assert len(adapted_layers(built(name).backbone)) == 112


@pytest.mark.parametrize('setting', RECIPES, ids=lambda pair: pair[1])
def test_a_file_of_adapters_is_smaller(setting):
    counted = count_model(built(path_of(setting, 'flora-r16')))
    ratio = counted.full_bytes / counted.file_bytes
    assert ratio == pytest.approx(SMALLER_L[setting], abs=0.01)


@pytest.mark.parametrize(('large', 'small'), SMALL.items())
def test_twin_has_the_pipeline_of_the_large_one(large, small):
    cfg = read(path_of(large, 'flora-r16'))
    twin = read(path_of(small, 'flora-r16'))
    for loader in ('train_dataloader', 'val_dataloader'):
        assert pipeline_types(cfg, loader) == pipeline_types(twin, loader)
    assert cfg.default_scope == twin.default_scope
    wrapper, other = cfg.optim_wrapper, twin.optim_wrapper
    assert wrapper.constructor == other.constructor


@pytest.mark.parametrize('name', GRID)
def test_methods_differ_by_the_method_alone(name):
    setting, _ = parts_of(name)
    rest = []
    for path in (name, path_of(setting, 'frozen')):
        cfg = read(path).to_dict()
        method = cfg.pop('method')
        for key in method:
            assert cfg['model']['backbone'].pop(key) == method[key]
        for key in ('type', 'peft'):
            cfg['model']['backbone'].pop(key, None)
        rest.append(cfg)
    hook = HOOKED.get(parts_of(name)[1])
    if hook is not None:
        assert rest[0].pop('method_hooks') == [hook]
        assert rest[0]['custom_hooks'].pop() == hook
    assert rest[0] == rest[1]


@pytest.mark.parametrize('name', DECAYED)
def test_layer_decay_is_all_that_such_a_config_adds(name):
    cfg, plain = (
        read(path).to_dict()
        for path in (name, name.replace('full-layer-decay', 'full'))
    )
    decay = cfg['optim_wrapper']['paramwise_cfg'].pop('layer_decay')
    assert cfg == plain
    model = build_on_meta(read(name))
    wrapper = build_optim_wrapper(model, read(name).optim_wrapper)
    rates = {
        parameter: group['lr'] / cfg['optim_wrapper']['optimizer']['lr']
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    blocks = [
        block for stage in model.backbone.stages for block in stage.blocks
    ]
    # Above the blocks stand the norms of the outputs, and the heads.
    layers = [model.backbone.stem, *blocks, model.backbone.norm3]
    for index, layer in enumerate(reversed(layers)):
        for parameter in layer.parameters():
            assert rates[parameter] == pytest.approx(decay**index)
    assert {
        rates[parameter]
        for heads in model.children()
        for parameter in heads.parameters()
        if heads is not model.backbone
    } == {1.0}


def test_layer_decay_stands_beside_the_paper_s_adamw_recipes():
    settings = [COCO, ADE, SMALL[COCO]]
    assert sorted(DECAYED) == sorted(
        path_of(setting, 'full').replace('_full_', '_full-layer-decay_')
        for setting in settings
    )


@pytest.mark.parametrize('name', [name for name in ALL if 'shapes' in name])
def test_twin_knows_the_generated_classes(name):
    cfg = read(name)
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


def test_no_check_of_classes_raises_a_false_alarm():
    for name in ALL:
        for stage in ('train', 'test'):
            check_classes(read(name), stage)
    for setting, expected in ((COCO, 80), (DOTA, 15), (ADE, 150)):
        cfg = copy.deepcopy(read(path_of(setting, 'frozen')))
        for _, node in find_dicts(cfg.model, 'model'):
            if 'num_classes' in node:
                node.num_classes = expected + 1
        with pytest.raises(ValueError, match=f'has {expected} classes'):
            check_classes(cfg, 'train')


@pytest.mark.slow
@pytest.mark.parametrize('package', TOOLKITS)
def test_stock_configs_raise_no_false_alarm(package):
    folder = Path(find_spec(package).origin).with_name('.mim') / 'configs'
    checked = 0
    for path in sorted(folder.rglob('*.py')):
        try:
            cfg = Config.fromfile(str(path), import_custom_modules=False)
        except (OSError, ImportError, AttributeError, KeyError, TypeError):
            continue  # its bases are not there
        if cfg.get('default_scope') in TOOLKITS and cfg.get('model'):
            check_classes(cfg, 'train')
            check_classes(cfg, 'test')
            checked += 1
    assert checked > 50


def test_every_config_repeats_when_it_is_resumed():
    # Methods change the backbone alone; comments, nothing.
    kinds = {}
    for path in sorted(CONFIGS.glob('*/*.py')):
        if path.parent.name != '_base_':
            lines = code_lines(path.relative_to(CONFIGS))
            rest = [line for line in lines if '/_base_/methods/' not in line]
            kinds[tuple(rest)] = path.relative_to(CONFIGS)
    assert len(kinds) > 20
    known = {
        'EpochBasedTrainLoop': 'DefaultSampler',
        'IterBasedTrainLoop': 'InfiniteSampler',
    }
    for name in map(str, kinds.values()):
        cfg = read(name)
        hooks = [*cfg.default_hooks.values(), *cfg.custom_hooks]
        types = [hook['type'] for hook in hooks]
        assert types.count('mmflora.IterationSeedHook') == 1, name
        assert 'EarlyStoppingHook' not in types, name
        assert cfg.train_dataloader.sampler.type == known[cfg.train_cfg.type]
        assert 'fast_forward_on_resume' not in cfg.train_cfg, name
        assert 'accumulative_counts' not in cfg.optim_wrapper, name
        assert 'batch_augments' not in cfg.model.data_preprocessor, name
        steps = pipeline_types(cfg, 'train_dataloader')
        assert not {'CachedMosaic', 'CachedMixUp', 'Albu'} & {*steps}, name


def test_no_base_needs_mmflora_to_be_imported_first():
    for path in CONFIGS.rglob('*.py'):
        text = re.sub('#.*', '', path.read_text())
        assert "'mmseg::" not in text
        assert "'mmflora::" not in text
