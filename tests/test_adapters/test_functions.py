"""Layers of any geometry against stock operators with W + ΔW."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import Case
from torch import nn

from mmflora.adapters.operators import Geometry
from mmflora.adapters.operators.geometry import _depthwise_weight_gradient

FEW = settings(max_examples=15, deadline=None, derandomize=True, database=None)


def draw(*shape, grad=True):
    return torch.randn(shape, dtype=torch.float64, requires_grad=grad)


def random_geometry(dims, values, groups):
    def several(low, high):
        return tuple(values.draw(st.integers(low, high)) for _ in range(dims))

    kernel, stride = several(1, 5), several(1, 4)
    dilation, padding = several(1, 3), several(0, 3)
    size = [
        values.draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), 12))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    return kernel, size, Geometry(stride, padding, dilation, groups)


@FEW
@given(
    values=st.data(),
    dims=st.integers(1, 2),
    channels=st.integers(2, 5),
    multiplier=st.integers(1, 3),
    batch=st.integers(1, 3),
)
def test_depthwise_weight_gradient(values, dims, channels, multiplier, batch):
    kernel, size, geometry = random_geometry(dims, values, channels)
    inputs = draw(batch, channels, *size, grad=False)
    weight = draw(channels * multiplier, 1, *kernel)
    output = geometry.apply(inputs, weight)
    upstream = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, weight, upstream)
    found = _depthwise_weight_gradient(geometry, upstream, inputs, weight)
    assert found.shape == weight.shape
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_depthwise_weight_gradient_sums_a_batch_in_full_precision():
    geometry = Geometry((1, 1), (1, 1), (1, 1), 8)
    inputs, upstream = torch.randn(2, 64, 8, 10, 10).bfloat16()
    weight = torch.randn(8, 1, 3, 3)
    found = geometry.weight_gradient(upstream, inputs, weight.bfloat16())
    exact = geometry.weight_gradient(
        upstream.double(), inputs.double(), weight.double()
    )
    # One rounding per image, 2⁻⁹ at most, not one per addition.
    error = (found.double() - exact).norm() / exact.norm()
    assert error < 2.5e-3


@FEW
@given(
    values=st.data(),
    dims=st.integers(1, 3),
    groups=st.sampled_from([1, 1, 2]),
    rank=st.lists(st.integers(1, 5), min_size=2, max_size=2),
    path=st.sampled_from(['folded', 'factored', 'dense', 'auto']),
)
def test_convolutions_of_any_shape(values, dims, groups, rank, path):
    kernel, size, geometry = random_geometry(dims, values, groups)
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    case = Case(lambda: kind(4, 6, kernel, *geometry), (2, 4, *size))
    layer = case.adapted(rank=rank[0], kernel_rank=rank[1], path=path)
    inputs = case.inputs().requires_grad_()
    check_layer(layer, inputs)


@FEW
@given(
    shape=st.lists(st.integers(1, 4), min_size=0, max_size=3),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    ranks=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    path=st.sampled_from(['folded', 'factored', 'dense', 'auto']),
)
def test_linear_layers_of_any_shape(shape, sizes, ranks, path):
    case = Case(lambda: nn.Linear(*sizes), (*shape, sizes[0]))
    layer = case.adapted(rank=ranks, path=path)
    check_layer(layer, case.inputs().requires_grad_())


def check_layer(layer, inputs):
    """Compare a layer with its stock operator and the weight W + ΔW."""
    sources = [inputs, *layer.adapter.parameters()]
    output = layer(inputs)
    expected = layer.compute(
        inputs, layer.weight + layer.delta_weight(), layer.bias
    )
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-10)
    upstream = torch.randn_like(output)
    for found, wanted in zip(
        torch.autograd.grad(output, sources, upstream),
        torch.autograd.grad(expected, sources, upstream),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)
