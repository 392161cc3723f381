"""Weighted sums: the update of the sum is the sum of the updates."""

import copy

import pytest
import torch

from mmflora.adapter_files import apply_adapter
from mmflora.tasks import combine_adapters

from .conftest import adapter_of, deltas, outputs


def test_weight_one_alone_is_the_adapter(toy):
    first, second = toy(1), toy(2)
    adapters = [adapter_of(first), adapter_of(second)]
    settings = dict(type='FLoRA', rank=8, kernel_rank=4)
    combined = combine_adapters(adapters, (1.0, 0.0))
    model = apply_adapter(toy(9, adapter=settings), combined).eval()
    torch.testing.assert_close(
        outputs(model), outputs(first), rtol=1e-4, atol=1e-4
    )
    half = combine_adapters(adapters[:1], [0.5])
    model = apply_adapter(toy(9), half)
    for name, delta in deltas(first).items():
        torch.testing.assert_close(0.5 * delta, deltas(model)[name])


def test_ranks_of_targets_add_up(toy):
    targets = {r'stem\..*': dict(rank=2), r'stages\.3\..*': {}}
    models = [toy(seed, targets=targets) for seed in (1, 2)]
    combined = combine_adapters([adapter_of(m) for m in models], (1, 1))
    method = combined.backbone()['method']
    assert method['targets'] == {
        r'stem\..*': dict(rank=4, kernel_rank=4),
        r'stages\.3\..*': dict(rank=8, kernel_rank=4),
    }
    model = toy(9, adapter=method['adapter'], targets=method['targets'])
    apply_adapter(model, combined)
    parts = [deltas(part) for part in models]
    for name, delta in deltas(model).items():
        expected = parts[0][name] + parts[1][name]
        torch.testing.assert_close(delta, expected, rtol=1e-4, atol=1e-4)


def test_what_has_no_sum(toy):
    one = adapter_of(toy(1))
    with pytest.raises(ValueError, match='one weight for each'):
        combine_adapters([one], [1, 2])
    for weight in (float('nan'), float('inf'), -float('inf')):
        with pytest.raises(ValueError, match='finite numbers, such as'):
            combine_adapters([one, one], [1, weight])
    other = copy.deepcopy(one)
    other.backbone()['base']['sha256'] = 'f' * 64
    with pytest.raises(ValueError, match='different bases'):
        combine_adapters([one, other], [1, 1])
    fewer = adapter_of(toy(1, exclude=r'stem\..*'))
    with pytest.raises(ValueError, match='differ in `exclude`'):
        combine_adapters([one, fewer], [1, 1])
    changed = copy.deepcopy(one)
    changed.backbone()['method']['adapter']['scale'] = 1.0
    with pytest.raises(ValueError, match='cannot be restated'):
        combine_adapters([one, changed], [1, 1])
