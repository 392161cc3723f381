"""Full fine-tuning of InternViT with rates that fall towards the input."""

import pytest
from torch import nn

from mmflora.engine import PEFTOptimWrapperConstructor
from mmflora.engine.layer_decay import layer_scales
from mmflora.models import PEFTInternViT

SMALL = dict(
    img_size=16,
    patch_size=8,
    embed_dims=16,
    depth=5,
    num_heads=2,
    out_indices=(0, 1, 2, 4),
    allow_random_base=True,
)


def segmenter(**method):
    model = nn.Module()
    model.backbone = PEFTInternViT(**SMALL, **method)
    model.decode_head = nn.Conv2d(16, 2, 1)
    return model


@pytest.mark.parametrize(
    'method',
    [
        dict(adapter=dict(type='Full'), targets='.*'),
        dict(adapter=dict(type='LoRA', rank=2)),
    ],
    ids=['full', 'lora'],
)
def test_rates_fall_from_the_pyramid_to_the_patches(method):
    model = segmenter(**method)
    scales = layer_scales(model, 0.5)
    found = {}
    for name, parameter in model.backbone.named_parameters():
        place = name.split('.')[0]
        if place == 'blocks':
            place = int(name.split('.')[1])
        found.setdefault(place, set()).add(scales[parameter])
    assert found == {
        'pyramid': {1.0},
        **{index: {0.5 ** (5 - index)} for index in range(5)},
        **dict.fromkeys(('patch_embed', 'cls_token', 'pos_embed'), {0.5**6}),
    }


def test_full_fine_tuning_gives_every_parameter_its_rate():
    model = segmenter(adapter=dict(type='Full'), targets='.*')
    build = PEFTOptimWrapperConstructor(
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1),
        ),
        dict(layer_decay=0.5, norm_decay_mult=0.0, bias_decay_mult=0.0),
    )
    groups = build(model).optimizer.param_groups
    names = {p: name for name, p in model.named_parameters()}
    rates = {
        names[p]: (group['lr'], group['weight_decay'])
        for group in groups
        for p in group['params']
    }
    assert rates.keys() == set(names.values())
    assert rates['backbone.blocks.4.mlp.fc1.weight'] == (0.5, 0.1)
    assert rates['backbone.blocks.0.attn.qkv.weight'] == (0.5**5, 0.1)
    assert rates['backbone.blocks.0.attn.q_norm.weight'] == (0.5**5, 0.0)
    assert rates['backbone.pos_embed'] == (0.5**6, 0.1)
    assert rates['backbone.pyramid.up2.0.weight'] == (1.0, 0.1)
    assert rates['decode_head.bias'] == (1.0, 0.0)
