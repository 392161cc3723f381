"""What all networks beside a backbone have in common."""

import pytest
import torch
from backbone_cases import CASES, images
from side_networks import BACKBONES, E3VA, LADDER, of, plain, randomise

from mmflora.adapters import merge, unload
from mmflora.adapters.base import AdapterBase

pytestmark = pytest.mark.parametrize(
    'adapter', [LADDER, E3VA], ids=lambda adapter: adapter['type']
)


@pytest.mark.parametrize('name', BACKBONES)
def test_starts_as_the_base_learns_and_is_taken_off(name, adapter):
    net, pictures = of(name, adapter), images(CASES[name])
    frozen = plain(net, pictures)
    assert all(map(torch.equal, net(pictures), frozen))
    moved = randomise(net)(pictures)
    assert not any(map(torch.equal, moved, frozen))
    sum(x.square().mean() for x in moved).backward()
    assert all(p.grad.any() for p in net.adapter.parameters())
    with pytest.raises(ValueError, match='beside the frozen one'):
        merge(net)
    unload(net).requires_grad_(False)
    assert not any(isinstance(m, AdapterBase) for m in net.modules())
    assert all(map(torch.equal, net(pictures), frozen))
    kept = {'tap', 'patches', 'grid', 'sum', 'beside', 'entered'}
    assert not any(vars(m).keys() & kept for m in net.modules())


def test_gradients_pass_a_backbone_with_checkpoints(adapter):
    name = 'mmflora ConvNeXt'
    net, gradients = randomise(of(name, adapter)), []
    for with_cp in (False, True):
        net.with_cp = with_cp
        net.zero_grad()
        sum(x.square().mean() for x in net(images(CASES[name]))).backward()
        gradients.append([p.grad for p in net.adapter.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
