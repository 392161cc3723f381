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


def test_fair_becomes_timm(net):
    converted = convnext_to_timm(fair_layout(net), state_shapes(net))
    assert_equal(converted, net.state_dict())


def test_fair_conversion_equals_timms_own(net):
    fair = fair_layout(net)
    expected = checkpoint_filter_fn(dict(model=fair), net)
    assert_equal(convnext_to_timm(fair, state_shapes(net)), expected)


def test_mmpretrain_becomes_timm(net):
    converted = convnext_to_timm(mmpretrain_layout(net), state_shapes(net))
    assert_equal(converted, net.state_dict())


def test_timm_stays_timm(net):
    state = net.state_dict()
    assert_equal(convnext_to_timm(state, state_shapes(net)), state)


def test_layouts_in_the_test_differ_from_timms(net):
    for layout in (fair_layout, mmpretrain_layout):
        shared = set(layout(net)) & set(net.state_dict())
        assert shared <= {'head.fc.weight', 'head.fc.bias'}


def test_norms_of_a_dense_mmpretrain_backbone_stay_norms_of_outputs(net):
    state = mmpretrain_layout(net)
    state['backbone.norm0.weight'] = torch.full((6,), 3.0)
    converted = convnext_to_timm(state, state_shapes(net))
    for key in ('norm0.weight', 'norm3.weight', 'norm3.bias'):
        assert torch.equal(converted[key], state[f'backbone.{key}'])


def test_unknown_keys_stay_for_the_caller_to_report(net):
    fair = fair_layout(net) | {'neck.weight': torch.ones(2)}
    assert 'neck.weight' in convnext_to_timm(fair, state_shapes(net))


def test_another_number_of_elements_is_not_reshaped(net):
    fair = fair_layout(net)
    fair['stages.0.0.pwconv1.weight'] = torch.ones(5, 5)
    converted = convnext_to_timm(fair, state_shapes(net))
    assert converted['stages.0.blocks.0.mlp.fc1.weight'].shape == (5, 5)
