"""The recipes of plain transformers, Swin and DINOv3's ConvNeXt.

A recipe is one file of `_base_/recipes`; a config is a recipe and a method.
"""

import copy
import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from small_swins import SHRUNK

import mmflora  # noqa: F401
from demo.shapes import CLASSES, SEG_CLASSES
from mmflora.adapters import adapted_layers
from mmflora.config.build import TOOLKITS
from mmflora.config.classes import check_classes
from mmflora.config.walk import find_dicts
from mmflora.count.parameters import build_on_meta, count_model
from mmflora.export import plain_config
from mmflora.memory_estimate.batch import batch_shape, make_batch
from mmflora.memory_estimate.step import TrainingStep

CONFIGS = Path(__file__).parents[1] / 'configs'
RECIPES = sorted(
    path.stem for path in (CONFIGS / '_base_/recipes').glob('*.py')
)
ALL = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.glob('*/*.py')
    if '_base_/recipes/' in path.read_text()
)
SOURCE = 'full/mask-rcnn_dinov3-vit-tiny_full_shapes-source.py'
LEAVES = [name for name in ALL if name != SOURCE]
TWINS = [name for name in LEAVES if name.split('_')[1].endswith('-tiny')]
LARGE = [name for name in LEAVES if name not in TWINS]
LAST_LINE = 'optim_wrapper = dict(paramwise_cfg=_base_.full_finetuning)'


# Inputs and outputs of the linear layers of a block: qkv (apart or together),
# proj, and those of a plain or a gated MLP.
def layers_of(width, hidden, gated=False, apart=False):
    qkv = [(width, width)] * 3 if apart else [(width, 3 * width)]
    up = [(width, hidden)] * (1 + gated)
    return [*qkv, (width, width), *up, (hidden, width)]


def swin(*stages):
    """Return the layers of blocks by stage: how many, and how wide."""
    return [
        layer
        for blocks, width in stages
        for layer in blocks * layers_of(width, 4 * width)
    ]


# The linear layers of all blocks, and the base's parameters, which follow from
# those of the published models: without a neck and norms that are not used,
# with positions and patches of the recipe's size.
BACKBONES = {
    'dinov3-vit-l': (24 * layers_of(1024, 4096), 303_079_424),
    'dinov3-vit-h-plus': (32 * layers_of(1280, 5120, gated=True), 840_509_440),
    'dinov3-vit-7b': (40 * layers_of(4096, 8192, gated=True), 6_716_030_976),
    'dinov3-vit-tiny': (4 * layers_of(64, 256), 249_344),
    'dinov2-vit-l-reg': (
        24 * layers_of(1024, 4096),
        304_370_688 - (37**2 - 36**2) * 1024,
    ),
    'eva02-l': (
        24 * layers_of(1024, 2730, gated=True, apart=True),
        303_268_800 - 2048 + (16**2 - 14**2) * 3 * 1024 - 16**2 * 1024,
    ),
    'sam-vit-h': (
        32 * layers_of(1280, 5120),
        637_026_048 - (1280 * 256 + 9 * 256**2 + 4 * 256),
    ),
    'swin-l': (
        swin((2, 192), (2, 384), (18, 768), (2, 1536)),
        195_195_444,
    ),
}
# Positions of the whole image, which the file has for 16 x 16 patches.
POSITIONS = {
    'upernet_eva02-l_ade20k-512x512': 32**2 * 1024,
    'cascade-mask-rcnn_eva02-l_coco-1024x1024': 64**2 * 1024,
}
# The layers are those of ConvNeXt-V2-L: see test_configs.py.
CONVNEXT = {
    'frozen': 0,
    'lora-r8': 12_946_080,
    'dora-r8': 13_111_392,
    'flora-r42': 12_840_493,
    'full': 196_227_264,
}
OUTPUT_NORMS = 2 * (192 + 384 + 768 + 1536)
# Neck and heads, counted when the configs were written.
HEADS = {
    'mask-rcnn_dinov3-vit-l': 25_349_104,
    'cascade-mask-rcnn_dinov3-vit-l': 58_277_374,
    'oriented-rcnn-le90_dinov3-vit-l': 22_317_866,
    'linear_dinov3-vit-l': 155_798,
    'upernet_dinov3-vit-l': 49_416_492,
    'mask2former_dinov3-vit-l': 27_617_623,
    'cascade-mask-rcnn_dinov3-vit-h-plus': 61_112_382,
    'linear_dinov3-vit-h-plus': 194_710,
    'mask2former_dinov3-vit-h-plus': 30_452_631,
    'linear_dinov3-vit-7b': 622_742,
    'mask2former_dinov3-vit-7b': 100_566_103,
    'linear_dinov2-vit-l-reg': 155_798,
    'upernet_dinov2-vit-l-reg': 49_416_492,
    'cascade-mask-rcnn_eva02-l': 58_277_374,
    'upernet_eva02-l': 135_750_956,
    'mask-rcnn_sam-vit-h': 28_184_112,
    'dino-5scale_swin-l': 23_262_412,
    'mask2former_swin-l': 20_287_575,
    'mask-rcnn_dinov3-convnext-l': 20_642_544,
    'oriented-rcnn-le90_dinov3-convnext-l': 17_611_306,
    'upernet_dinov3-convnext-l': 38_761_772,
}


def parts_of(name):
    """Split a name into model, backbone, method and data."""
    return Path(name).stem.split('_', 3)


def recipe_of(name):
    model, backbone, rest, data = parts_of(name)
    for quantized in ('int8_', 'nf4_'):
        data = data.removeprefix(quantized)
    return f'{model}_{backbone}_{data}'


def adapted(recipe):
    """Return the recipe's config with FLoRA."""
    found = [name for name in LEAVES if recipe_of(name) == recipe]
    return next(name for name in found if name.startswith('flora/'))


@cache
def read(name):
    """Return a config; not to be changed."""
    return Config.fromfile(str(CONFIGS / name))


@cache
def built(name):
    """Return the model of a config, without memory; not to be changed."""
    return build_on_meta(read(name))


def trained_by(method, layers):
    """Return what a method trains, from the shapes of the layers."""
    kind, _, rank = method.partition('-r')
    if kind == 'frozen':
        return 0
    r = int(rank)
    more = {
        'lora': 0,
        'dora': sum(outer for _, outer in layers),
        'flora': len(layers) * r**2,
    }
    return r * sum(inner + outer for inner, outer in layers) + more[kind]


def built_in_turn(names):
    """Leave to slow runs what differs from another in one part alone."""
    now = {}
    for name in names:
        model, backbone, method, _ = parts_of(name)
        quick = model in ('linear', 'upernet', 'mask2former', 'mask-rcnn')
        if quick and method.startswith('flora'):
            now.setdefault(backbone, name)
    return [
        name
        if name in now.values() or '/linear_dinov3-vit-l_' in name
        else pytest.param(name, marks=pytest.mark.slow)
        for name in names
    ]


@pytest.mark.parametrize('name', LEAVES)
def test_a_config_is_a_recipe_and_a_method(name):
    text = (CONFIGS / name).read_text()
    model, backbone, method, _ = parts_of(name)
    bases = re.findall(r"'\.\./_base_/(\w+)/(?:.+/)?([\w.-]+)\.py'", text)
    assert [kind for kind, _ in bases] == ['recipes', 'methods']
    assert bases[0][1] == recipe_of(name)
    folder = name.partition('/')[0]
    assert folder == re.sub(r'-r\d+$', '', method)
    assert method in bases[1][1]
    lines = text.splitlines()[5:]
    assert lines[0] == 'model = dict(backbone=_base_.method)'
    assert lines[1:] in ([], [LAST_LINE])
    if lines[1:]:
        assert folder == 'full'


def test_every_recipe_has_the_methods_to_compare():
    found = {}
    for name in LEAVES:
        found.setdefault(recipe_of(name), set()).add(parts_of(name)[2])
    assert set(found) == set(RECIPES)
    for recipe, methods in found.items():
        if '-tiny_' not in recipe:
            kinds = {method.partition('-')[0] for method in methods}
            assert kinds >= {'frozen', 'lora', 'dora', 'flora'}, recipe


@pytest.mark.parametrize('name', built_in_turn(LEAVES))
def test_golden_counts(name):
    model, backbone, method, _ = parts_of(name)
    counted = count_model(built(name))
    if backbone == 'dinov3-convnext-l':
        base, trained = CONVNEXT['full'], CONVNEXT[method]
        assert len(adapted_layers(built(name).backbone)) == (
            112 if method[-1].isdigit() else 0
        )
    else:
        layers, base = BACKBONES[backbone]
        base += POSITIONS.get(recipe_of(name), 0)
        trained = base if method == 'full' else trained_by(method, layers)
        assert len(adapted_layers(built(name).backbone)) == (
            len(layers) if method[-1].isdigit() else 0
        )
    assert counted.base == base
    assert counted.method == trained
    stages = backbone in ('swin-l', 'dinov3-convnext-l')
    assert counted.new == (OUTPUT_NORMS if stages else 0)
    if name in LARGE:
        heads = counted.neck + counted.heads
        assert heads == HEADS[f'{model}_{backbone}']


@pytest.mark.parametrize(
    ('folder', 'width'),
    [
        ('transformer', 1024),
        ('transformer-1280', 1280),
        ('transformer-4096', 4096),
        # Of 18 of the 24 blocks.
        ('swin', 768),
        ('internvit', 3200),
    ],
)
def test_scale_of_flora_follows_the_rule(folder, width):
    """InternViT's is the paper's, the others follow from it."""
    path = CONFIGS / f'_base_/methods/{folder}/flora-r16.py'
    adapter = Config.fromfile(str(path)).method.peft.adapter
    rule = math.sqrt(adapter.rank / (3 * width))
    assert adapter.scale == round(rule, 2)


def test_the_rule_is_half_the_speed_of_lora():
    """Both move all their free parameters by one step of AdamW, ±lr."""
    torch.manual_seed(0)
    rank, width, lr, double = 16, 1024, 1e-4, torch.float64

    def signs(*shape):
        return lr * torch.randn(*shape, dtype=double).sign()

    # LoRA: B A, A uniform as in a linear layer of its fan-in; alpha = rank.
    a = torch.empty(rank, width, dtype=double).uniform_(-1, 1) / width**0.5
    lora = signs(width, rank) @ a
    # FLoRA: s A G Bᵀ, factors of a variance of 1 / (2 rank).
    factors = [
        torch.randn(width, rank, dtype=double) / (2 * rank) ** 0.5
        for _ in range(2)
    ]
    scale = math.sqrt(rank / (3 * width))
    flora = scale * factors[0] @ signs(rank, rank) @ factors[1].T
    ratio = (flora.pow(2).mean() / lora.pow(2).mean()).sqrt()
    # 256 signs and 32,768 factors: a few per cent of scatter.
    assert ratio.item() == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    'name', [*(name for name in TWINS if '_flora-r16_' in name), *SHRUNK]
)
def test_twin_learns_a_batch(name):
    cfg = copy.deepcopy(read(name))
    cfg.merge_from_dict(SHRUNK.get(name, {}))
    size = (64, 64) if name in SHRUNK else None
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(0)
        step = TrainingStep(cfg, 'cpu')
        model = step.model
        before = {
            key: value.clone() for key, value in model.state_dict().items()
        }
        batch = make_batch(cfg, batch_shape(cfg, 2, size))
        for _ in range(2):
            losses = model.train_step(batch, step.optim_wrapper)
    assert torch.isfinite(losses['loss'])
    changed = {
        key
        for key, value in model.state_dict().items()
        if not torch.equal(value, before[key])
    }
    cores = {key for key in before if key.endswith('adapter.core')}
    assert len(cores) == (20 if name in SHRUNK else 16)
    assert cores <= changed
    base = set(model.backbone.base_record.base_keys)
    assert not {f'backbone.{key}' for key in base} & changed
    norms = {f'backbone.{key}' for key in model.backbone.base_record.new_keys}
    assert norms <= changed
    assert any(key.startswith(('neck.', 'decode_head.')) for key in changed)


@pytest.mark.parametrize('recipe', RECIPES)
def test_classes_of_data_and_heads(recipe):
    cfg = read(adapted(recipe))
    assert cfg.default_scope in TOOLKITS
    for stage in ('train', 'test'):
        check_classes(cfg, stage)
    if '-tiny_' in recipe:
        segments = cfg.default_scope == 'mmseg'
        expected = len(SEG_CLASSES if segments else CLASSES)
    else:
        expected = {'coco': 80, 'dota': 15, 'ade20k': 150}[
            recipe.split('_')[2].split('-')[0]
        ]
    assert {
        node['num_classes']
        for _, node in find_dicts(cfg.model, 'model')
        if 'num_classes' in node
    } == {expected}


@pytest.mark.parametrize('recipe', RECIPES)
def test_a_merged_model_needs_no_mmflora(recipe):
    plain = plain_config(read(adapted(recipe)))
    assert 'mmflora' not in plain.text().replace(str(CONFIGS), '')


@pytest.mark.parametrize(
    'recipe', [recipe for recipe in RECIPES if '-tiny_' not in recipe]
)
def test_images_of_a_step(recipe):
    """Eight GPUs make the batch that the learning rate was found for."""
    cfg = read(adapted(recipe))
    images = 8 * cfg.train_dataloader.batch_size
    base = cfg.auto_scale_lr.base_batch_size
    # EVA-02's authors have 144; the schedule says so.
    assert images == base or (images, base) == (64, 144)
