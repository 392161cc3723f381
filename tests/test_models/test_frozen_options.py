import ast
import re

import pytest
import torch
from backbone_cases import CASES, FLORA, RESNET, build
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmflora.adapters import adapted_layers
from mmflora.models import PEFTOptions, adapt_backbone


def small(**options):
    config = dict(RESNET, **options)
    return dict(type='mmflora.PEFTBackbone', backbone=config, adapter=FLORA)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmrotate'])
def test_scopes_of_the_toolkits(scope):
    """`ResNet` is the toolkit's own; mmrotate has mmdet's."""
    config = small(type='mmdet.ResNet' if scope == 'mmrotate' else 'ResNet')
    with DefaultScope.overwrite_default_scope(scope):
        backbone = MODELS.build(config)
    module = type(backbone).__module__
    assert module.startswith(scope.replace('mmrotate', 'mmdet'))
    assert len(adapted_layers(backbone)) >= 20


def test_prefix_of_a_detector(tmp_path):
    stock = MODELS.build(RESNET)
    state = {f'backbone.{k}': v + 1 for k, v in stock.state_dict().items()}
    path = tmp_path / 'detector.pth'
    torch.save(dict(state_dict=state | {'neck.bias': torch.ones(2)}), path)
    source = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    backbone = MODELS.build(small(init_cfg=source))
    assert torch.equal(backbone.conv1.weight, state['backbone.conv1.weight'])
    assert backbone.base_record.source == source

    wrong = dict(source, prefix='body.')
    with pytest.raises(ValueError, match=r'body\.') as caught:
        MODELS.build(small(init_cfg=wrong))
    assert str(path) in str(caught.value)


def test_new_params_that_match_nothing():
    config = dict(small(), new_params=[r'norm[0-3]\..*'])
    with pytest.raises(ValueError, match='new_params') as caught:
        MODELS.build(config)
    assert repr(r'norm[0-3]\..*') in str(caught.value)


def test_new_params_train_and_may_be_missing(tmp_path):
    stock = MODELS.build(RESNET)
    state = stock.state_dict()
    del state['layer4.1.bn2.weight']
    path = tmp_path / 'base.pth'
    torch.save(state, path)
    config = small(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    config['new_params'] = r'layer4\.1\.bn2\.weight'
    backbone = MODELS.build(config)
    assert backbone.layer4[1].bn2.weight.requires_grad
    assert not backbone.layer4[1].bn2.bias.requires_grad
    assert backbone.base_record.new_keys == ('layer4.1.bn2.weight',)


def test_unused_keys(tmp_path):
    state = MODELS.build(RESNET).state_dict()
    state |= {'aux.weight': torch.ones(2), 'fc.bias': torch.ones(2)}
    path = tmp_path / 'base.pth'
    torch.save(state, path)
    source = dict(type='Pretrained', checkpoint=str(path))
    with pytest.raises(ValueError, match=r'aux\.weight'):
        MODELS.build(small(init_cfg=source))
    own = [r'aux\..*', r'fc\..*']  # they take the default's place
    config = small(init_cfg=source) | dict(unused_keys=own)
    assert MODELS.build(config).base_record.in_place


class Stubborn(nn.Module):
    """Ignores its `init_cfg`."""

    def __init__(self, init_cfg):
        super().__init__()
        self.init_cfg = init_cfg
        self.conv = nn.Conv2d(3, 4, 3)

    def init_weights(self):
        pass


def test_backbone_that_loads_nothing(tmp_path):
    path = tmp_path / 'base.pth'
    torch.save(nn.Conv2d(3, 4, 3).state_dict(), path)
    backbone = Stubborn(dict(type='Pretrained', checkpoint=str(path)))
    with pytest.raises(ValueError, match='loaded nothing'):
        adapt_backbone(backbone, PEFTOptions(FLORA))


def test_layers_left_frozen_are_said(log_text):
    net = nn.ModuleDict(
        dict(fc=nn.Linear(4, 4), table=nn.Embedding(5, 4, max_norm=1.0))
    )
    adapt_backbone(net, PEFTOptions(FLORA, allow_random_base=True))
    assert 'table: max_norm rewrites the frozen table' in log_text()
    assert 'left frozen' in log_text()


def test_plain_checkpoint_without_its_statistics():
    backbone = MODELS.build(small())
    state = MODELS.build(RESNET).state_dict()
    backbone.load_state_dict(state, strict=False)
    for key in [key for key in state if 'running_var' in key]:
        del state[key]
    with pytest.raises(ValueError, match=r'bn1\.running_var'):
        backbone.load_state_dict(state, strict=False)


def test_deformable_convolutions_are_adapted():
    deformable = dict(
        dcn=dict(type='DCN'), stage_with_dcn=(False, False, False, True)
    )
    backbone = MODELS.build(small(depth=50, **deformable))
    layers = adapted_layers(backbone)
    assert 'layer4.0.conv2' in layers
    assert 'layer4.0.conv2.conv_offset' in layers
    assert not layers['layer4.0.conv2'].base_weight().requires_grad


def test_unknown_backbone_names_it():
    with pytest.raises(KeyError, match='NoSuchNet'):
        MODELS.build(small(type='mmdet.NoSuchNet'))


def test_checkpoint_of_a_version_that_left_layers_out():
    """The error says how to leave the same layers out again."""
    exclude = [r'conv_stem', r'blocks\.[0124]\.0\.conv_dw']
    case = CASES['timm MobileNet']
    older = build(case, allow_random_base=True, exclude=exclude)
    with pytest.raises(ValueError, match=r"add exclude=\['conv_st") as caught:
        build(case).load_state_dict(older.state_dict(), strict=False)
    named = re.search(r'exclude=(\[.*\])', str(caught.value)).group(1)
    again = build(case, exclude=ast.literal_eval(named))
    again.load_state_dict(older.state_dict(), strict=True)
    assert set(adapted_layers(again)) == set(adapted_layers(older))
