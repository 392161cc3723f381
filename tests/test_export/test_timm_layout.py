"""Backbones in the layout of timm.create_model."""

import pytest
import timm
import torch

from mmflora.export import (
    BOUNDS,
    largest_difference,
    load_trained,
)
from mmflora.export.timm_layout import (
    stage_features,
    timm_arguments,
    timm_features,
    timm_state,
)
from mmflora.models import ConvNeXt

ATTO = 'convnextv2_atto'


def test_timm_loads_it_strictly_and_computes_the_same(segmentor, tmp_path):
    out = tmp_path / 'timm.pth'
    report = segmentor.merge(out, backbone_only=True, layout='timm')
    assert report.difference.relative < BOUNDS['float32']
    assert report.difference.outputs == 4
    model = timm.create_model(ATTO, num_classes=0, checkpoint_path=str(out))
    model.eval()
    adapted, _ = load_trained(segmentor.cfg(), str(segmentor.checkpoint))
    images = torch.randn(2, 3, 96, 64)
    wanted = stage_features(adapted.backbone, images)
    assert list(wanted) == [f'stage_{index}' for index in range(4)]
    found = timm_features(model, (0, 1, 2, 3), images)
    fresh = timm_features(timm.create_model(ATTO).eval(), (3,), images)
    assert largest_difference(wanted, found).relative < BOUNDS['float32']
    assert not torch.allclose(fresh['stage_3'], found['stage_3'], atol=0.1)
    # What stands behind the last stage starts anew.
    assert torch.equal(model.head.norm.weight, torch.ones(320))
    assert torch.equal(model.head.norm.bias, torch.zeros(320))


def test_backbone_without_its_last_stage():
    state = ConvNeXt(ATTO, out_indices=(0, 1)).state_dict()
    model = timm.create_model(ATTO, num_classes=0)
    with pytest.raises(ValueError, match=r'missing.*stages\.2'):
        timm_state(state, model)


@pytest.mark.parametrize(
    'backbone',
    [
        dict(type='mmdet.ResNet', depth=50),
        dict(type='TimmConvNeXt', arch=dict(depths=(1, 1, 1, 1))),
    ],
)
def test_backbones_that_timm_does_not_know(backbone):
    with pytest.raises(ValueError, match='--layout stock'):
        timm_arguments(backbone)


def test_stages_of_another_timm_model():
    backbone = dict(
        type='TimmIntermediates', model_name='resnet18', out_indices=(1, 4)
    )
    arguments = timm_arguments(backbone)
    assert arguments == dict(model_name='resnet18', num_classes=0)
    from mmengine.registry import MODELS

    built = MODELS.build(dict(backbone, type='mmflora.TimmBackbone')).eval()
    model = timm.create_model(**arguments)
    model.load_state_dict(timm_state(built.state_dict(), model), strict=True)
    images = torch.randn(1, 3, 64, 64)
    wanted = stage_features(built, images)
    found = timm_features(model, (1, 4), images)
    assert wanted.keys() == found.keys() == {'stage_1', 'stage_4'}
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
