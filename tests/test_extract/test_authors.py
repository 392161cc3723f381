"""Adapters in the authors' keys, in either order of the modes."""

import pytest
import torch

from mmflora.adapters import adapted_layers
from mmflora.extract import load_authors_flora


def in_their_keys(model, swapped, prefix='model.'):
    """Rename a toy's adapters; with the input's mode first if swapped."""
    state = {}
    for name, layer in adapted_layers(model).items():
        core = layer.adapter.core.detach().clone()
        factors = [factor.detach().clone() for factor in layer.adapter.factors]
        if swapped:
            core = core.transpose(0, 1).contiguous()
            factors[0], factors[1] = factors[1], factors[0]
        place = f'{prefix}{name}.flora_layer.param_'
        state[f'{place}G'] = core
        state |= {f'{place}{n}': factor for n, factor in enumerate(factors)}
        state[f'{prefix}{name}.weight'] = layer.weight.detach().clone()
    return state


@pytest.mark.parametrize('swapped', [False, True], ids=['out in', 'in out'])
@torch.no_grad()
def test_updates_are_the_same(toy, swapped):
    theirs, ours = toy(seed=1).backbone, toy().backbone
    state = in_their_keys(theirs, swapped)
    names = load_authors_flora(ours, state, prefix='model.')
    assert names == list(adapted_layers(theirs))
    for name, layer in adapted_layers(theirs).items():
        delta = layer.delta_weight()
        assert delta.abs().max() > 0
        torch.testing.assert_close(
            ours.get_submodule(name).delta_weight(), delta
        )


def test_what_does_not_fit(toy):
    theirs = toy(seed=1).backbone
    state = in_their_keys(theirs, False, '')
    backbone = toy().backbone
    before = {k: v.clone() for k, v in backbone.state_dict().items()}

    def refused(message, backbone=backbone, **changes):
        wrong = {**state, **changes}
        wrong = {
            key: value for key, value in wrong.items() if value is not None
        }
        with pytest.raises(ValueError, match=message):
            load_authors_flora(backbone, wrong)

    refused('incomplete', **{'stem.0.flora_layer.param_2': None})
    refused('have .* rows', **{'stem.0.flora_layer.param_0': torch.ones(9, 3)})
    refused(
        'core and factors', **{'stem.0.flora_layer.param_2': torch.ones(4, 1)}
    )
    refused(r'stand in one alone', backbone=toy(exclude=r'stem\..*').backbone)
    with pytest.raises(ValueError, match='Set `targets`, or the prefix'):
        load_authors_flora(backbone, state, prefix='model.')
    swapped = in_their_keys(theirs, True, '')
    one = 'stages.1.downsample.1.flora_layer.param_'
    refused(
        'layers disagree', **{k: v for k, v in swapped.items() if one in k}
    )
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key])
