"""A method's own file is enough: its adapters are kept, compared, summed."""

import pytest
import torch
from torch import nn

from mmflora.adapter_files import apply_adapter, read_adapter, write_adapter
from mmflora.adapter_files.compare import compare_adapters
from mmflora.adapters import Adapter, LowRank
from mmflora.registry import ADAPTERS
from mmflora.tasks import combine_adapters

from .conftest import adapter_of, deltas


class Whole(Adapter):
    """ΔW = s D, with a trained D as large as the weight."""

    linear = {'delta': 0.0}  # noqa: RUF012

    def __init__(self, weight, scale=1.0):
        super().__init__(weight)
        self.scale = scale
        self.delta = self.parameter_like(weight, *weight.shape)
        nn.init.zeros_(self.delta)

    @classmethod
    def stored_shape(cls, tensors, settings):
        return tuple(tensors['delta'].shape)

    def delta_weight(self):
        return self.scale * self.delta

    def meaning(self):
        return dict(scale=self.scale)


class Pair(Adapter):
    """ΔW = s B A, of a rank that the sum of two has twice."""

    products = (('left', 'right'),)

    def __init__(self, weight, rank=2, scale=1.0):
        super().__init__(weight)
        self.rank, self.scale = rank, scale
        self.left = self.parameter_like(weight, len(weight), rank)
        self.right = self.parameter_like(weight, rank, *weight.shape[1:])

    @classmethod
    def stored_shape(cls, tensors, settings):
        return len(tensors['left']), *tensors['right'].shape[1:]

    def low_rank(self):
        return LowRank(self.scale * self.left, self.right)

    def delta_weight(self):
        return torch.einsum('or,r...->o...', *self.low_rank())

    def meaning(self):
        return dict(rank=self.rank, scale=self.scale)


class Silent(Whole):
    """Declares nothing of its tensors."""

    linear = {}  # noqa: RUF012

    @classmethod
    def stored_shape(cls, tensors, settings):
        return None


@pytest.fixture(autouse=True)
def registered():
    kinds = (Whole, Pair, Silent)
    for kind in kinds:
        ADAPTERS.register_module(module=kind)
    yield
    for kind in kinds:
        ADAPTERS._module_dict.pop(kind.__name__)


@pytest.mark.parametrize(
    ('pair', 'changed'),
    [
        ([dict(type='Whole'), dict(type='Whole', scale=2.0)], {}),
        (
            [dict(type='Pair', scale=0.5), dict(type='Pair', rank=3)],
            dict(rank=5),
        ),
    ],
    ids=['whole', 'pair'],
)
def test_saved_compared_and_summed(toy, tmp_path, pair, changed):
    same = [pair[0], {**pair[1], 'scale': pair[0].get('scale', 1.0)}]
    models = [toy(seed, adapter=a) for seed, a in enumerate(same)]
    files = [
        read_adapter(write_adapter(adapter_of(model), tmp_path / str(i)))
        for i, model in enumerate(models)
    ]
    ours, theirs = map(deltas, models)
    flora = toy(7)
    for other, dense in (
        (files[1], theirs),
        (adapter_of(flora), deltas(flora)),
    ):
        rows = compare_adapters(files[0], other)
        assert {row.layer for row in rows} == ours.keys()
        for row in rows:
            a, b = ours[row.layer], dense[row.layer]
            off = float((a - b).norm())
            assert row.difference == pytest.approx(off, rel=1e-4)
            assert row.norms[1] == pytest.approx(float(b.norm()), rel=1e-5)
    combined = combine_adapters(files, (0.5, -2.0))
    settings = combined.backbone()['method']['adapter']
    assert settings == {**same[0], **changed}
    model = apply_adapter(toy(9, adapter=settings), combined)
    for name, delta in deltas(model).items():
        expected = 0.5 * ours[name] - 2 * theirs[name]
        torch.testing.assert_close(delta, expected, rtol=1e-4, atol=1e-4)


def test_what_declares_nothing_is_refused(toy):
    silent = adapter_of(toy(1, adapter=dict(type='Silent')))
    with pytest.raises(ValueError, match='Silent, whose update is not in the'):
        compare_adapters(silent, silent)
    with pytest.raises(ValueError, match='Silent. A weighted sum'):
        combine_adapters([silent, silent], (0.5, 0.5))
