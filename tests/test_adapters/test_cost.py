import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmflora.adapters import FLoRA, adapt_layer, choose_path, path_costs


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(
    positions=st.integers(0, 100_000),
    rows=st.integers(1, 4096),
    columns=st.integers(1, 4096),
    rank=st.integers(1, 512),
)
def test_the_cheapest_path_is_chosen(positions, rows, columns, rank):
    costs = path_costs(positions, rows, columns, rank)
    thin = positions * rank * (rows + columns)
    assert costs == {
        'folded': 2 * rows * columns * rank + 2 * thin,
        'factored': 3 * thin,
        'dense': rows * columns * (rank + positions),
    }
    chosen = choose_path(positions, rows, columns, rank)
    assert costs[chosen] == min(costs.values())


CHOICES = {
    'few tokens': ((4, 768, 768, 16), 'factored'),
    'many tokens': ((10_000, 768, 768, 16), 'folded'),
    'full rank': ((10_000, 64, 64, 64), 'dense'),
    'nothing to compute': ((0, 64, 64, 64), 'factored'),
}


@pytest.mark.parametrize(('sizes', 'path'), CHOICES.values(), ids=CHOICES)
def test_choice(sizes, path):
    assert choose_path(*sizes) == path


LAYERS = {
    'linear, few': (lambda: nn.Linear(64, 48), (1, 4, 64), 'factored'),
    'linear, many': (lambda: nn.Linear(64, 48), (40, 50, 64), 'folded'),
    'linear, full rank': (lambda: nn.Linear(3, 4), (40, 50, 3), 'dense'),
    # Positions are those of the output: a stride of 16 leaves one of them.
    'conv, few': (
        lambda: nn.Conv2d(8, 64, 16, stride=16),
        (1, 8, 16, 16),
        'factored',
    ),
    'conv, many': (
        lambda: nn.Conv2d(64, 64, 3, padding=1),
        (4, 64, 16, 16),
        'folded',
    ),
    'depthwise': (
        lambda: nn.Conv2d(8, 8, 3, groups=8),
        (1, 8, 5, 5),
        'dense',
    ),
}


@pytest.mark.parametrize(
    ('build', 'shape', 'path'), LAYERS.values(), ids=LAYERS
)
def test_layers_follow_the_rule_for_their_input(
    build, shape, path, randomise, monkeypatch
):
    layer = build().requires_grad_(False)
    adapt_layer(layer, FLoRA(layer.weight, rank=4))
    randomise(layer.adapter)
    taken = []
    for name in ('adapted.trained', 'conv.trained', 'adapted.updated'):
        monkeypatch.setattr(
            f'mmflora.adapters.layers.{name}',
            lambda *given, name=name: (
                taken.append((name, given[-1])) or given[0]
            ),
        )
    layer(torch.randn(shape))
    ((function, folded),) = taken
    if path == 'dense':
        assert 'updated' not in function
    else:
        assert 'updated' in function
        assert folded is (path == 'folded')
