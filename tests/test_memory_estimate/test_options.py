from pathlib import Path

from mmengine.config import Config

from mmflora.config.build import register_toolkit
from mmflora.config.walk import frozen_parts
from mmflora.memory_estimate import AS_IT_IS, options

CONFIGS = Path(__file__).parents[2] / 'configs'


def offered(name, **changes):
    """Return the names of a config's options, and the options."""
    cfg = Config.fromfile(str(CONFIGS / name))
    cfg.merge_from_dict(changes)
    register_toolkit(cfg)
    found = options(cfg)
    assert found[0] is AS_IT_IS
    return cfg, {option.name: option for option in found}


def test_of_a_convnext():
    _, names = offered(
        'flora/upernet_convnextv2-l_flora-r16_ade20k-512x512.py'
    )
    assert {'lean=True', 'with_cp=True'} <= set(names)
    # It is on, and there is no such kind of recomputation.
    assert not {'autocast=bfloat16', 'with_cp=mlp'} & set(names)


def test_of_an_internvit():
    cfg, names = offered(
        'flora/upernet_internvit-6b_flora-r16_ade20k-504x504.py'
    )
    assert {
        *('with_cp=False', 'with_cp=mlp', 'lean=True with_cp=False'),
        *('quantize.bits=8', 'quantize.bits=4'),
    } <= set(names)
    assert 'lean=True' not in names
    changed = names['lean=True with_cp=False'].apply(cfg)
    assert changed.model.backbone.lean is True
    assert changed.model.backbone.with_cp is False
    assert cfg.model.backbone.with_cp is True


def test_where_nothing_is_adapted_lean_is_nothing():
    _, names = offered('frozen/upernet_convnextv2-l_frozen_ade20k-512x512.py')
    assert 'lean=True' not in names
    assert 'with_cp=True' in names


def test_what_is_on_is_not_offered():
    _, names = offered(
        'flora/upernet_convnextv2-l_flora-r16_ade20k-512x512.py',
        **{'model.backbone.lean': True, 'model.backbone.autocast': None},
    )
    assert 'lean=True' not in names
    assert 'autocast=bfloat16' in names


def test_of_parts_of_a_model():
    adapter = dict(type='FLoRA', rank=2)
    head = 'decode_head.pixel_decoder'
    cfg = Config(
        dict(
            model=dict(
                type='mmflora.PEFTModel',
                model_type='EncoderDecoder',
                parts={
                    'backbone': dict(adapter=adapter),
                    head: dict(adapter=adapter),
                    'neck': dict(adapter=None),
                },
            )
        )
    )
    names = {option.name: option for option in options(cfg)}
    both = {f'model.parts.{name}.lean': True for name in ('backbone', head)}
    assert names['lean=True'].settings == both
    casts = {'model.parts.backbone.autocast': 'bfloat16'}
    assert names['autocast=bfloat16'].settings == casts
    assert len(names['quantize.bits=8'].settings) == 3
    changed = names['lean=True'].apply(cfg)
    assert [part.settings.get('lean') for part in frozen_parts(changed)] == [
        True,
        True,
        None,
    ]


def test_of_a_backbone_within_an_adapted_one():
    inner = dict(
        type='mmflora.TimmBackbone',
        model_name='vit_small_patch16_dinov3',
        out_indices=[11],
        with_cp=True,
    )
    adapter = dict(type='LoRA', rank=2)
    cfg = Config(
        dict(
            model=dict(
                backbone=dict(
                    type='mmflora.PEFTBackbone',
                    backbone=inner,
                    peft=dict(adapter=adapter),
                )
            )
        )
    )
    names = {option.name: option for option in options(cfg)}
    place = 'model.backbone.backbone'
    assert names['with_cp=False'].settings == {f'{place}.with_cp': False}
    assert names['dtype=bfloat16'].settings == {f'{place}.dtype': 'bfloat16'}
    assert names['lean=True with_cp=False'].settings[f'{place}.with_cp'] is (
        False
    )
    assert {'autocast=bfloat16', 'quantize.bits=4'} <= names.keys()
