import pytest
import torch
from convnext_files import ARCHS, fair_layout, mmpretrain_layout, stock_net
from timm.models.convnext import checkpoint_filter_fn

from mmflora.checkpoint import convnext_to_timm
from mmflora.checkpoint.keys import state_shapes


@pytest.fixture(params=ARCHS.values(), ids=ARCHS)
def net(request):
    return stock_net(request.param)


def assert_equal(actual, expected):
    assert set(actual) == set(expected)
    for key, value in expected.items():
        assert actual[key].shape == value.shape, key
        assert torch.equal(actual[key], value), key


def test_fair_conversion_equals_timms_own(net):
    fair = fair_layout(net)
    expected = checkpoint_filter_fn(dict(model=fair), net)
    assert_equal(convnext_to_timm(fair, state_shapes(net)), expected)


def test_norms_of_a_dense_mmpretrain_backbone_stay_norms_of_outputs(net):
    state = mmpretrain_layout(net)
    state['backbone.norm0.weight'] = torch.full((6,), 3.0)
    converted = convnext_to_timm(state, state_shapes(net))
    for key in ('norm0.weight', 'norm3.weight', 'norm3.bias'):
        assert torch.equal(converted[key], state[f'backbone.{key}'])


def test_another_number_of_elements_is_not_reshaped(net):
    fair = fair_layout(net)
    fair['stages.0.0.pwconv1.weight'] = torch.ones(5, 5)
    converted = convnext_to_timm(fair, state_shapes(net))
    assert converted['stages.0.blocks.0.mlp.fc1.weight'].shape == (5, 5)
