"""Fake tensors, what they decide as on a GPU, and the values beside them."""

import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.checkpoint import checkpoint

from mmflora.adapters.operators import geometry
from mmflora.memory_estimate import gpu_choices
from mmflora.memory_estimate.fake_tensors import fake_tensors
from mmflora.memory_estimate.live_bytes import LiveStorages, count_step

HALF = torch.bfloat16


def patched():
    return (
        *(F.scaled_dot_product_attention, F.dropout, nn.Module._apply),
        *(torch.from_numpy, torch.get_rng_state, geometry.on_cpu),
        *(vars(FakeTensor).get(name) for name in ('numpy', 'tolist')),
    )


def norm_in_autocast():
    with torch.autocast('cpu', HALF):
        return F.layer_norm(torch.ones(2, 8, dtype=HALF), (8,)).dtype


def test_nothing_is_left_behind():
    before = patched()
    with fake_tensors():
        assert isinstance(torch.empty(2), FakeTensor)
        assert norm_in_autocast() == torch.float32
        assert patched() != before
    assert patched() == before
    assert norm_in_autocast() == HALF


@pytest.mark.parametrize(
    'name', f'{gpu_choices._FLOAT32} {gpu_choices._TO_FLOAT32}'.split()
)
def test_only_a_gpu_s_autocast_has_them_in_float32(name):
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    assert has(f'aten::{name}', 'AutocastCUDA')
    assert not has(f'aten::{name}', 'AutocastCPU')


@pytest.mark.parametrize(
    'operator',
    [
        *(torch.exp, torch.sum, lambda x: x.softmax(-1), lambda x: x**2),
        lambda x: x.log_softmax(-1),
        lambda x: F.group_norm(x, 2),
        lambda x: F.interpolate(x, scale_factor=2, mode='bilinear'),
    ],
)
def test_autocast_follows_the_gpu(operator):
    with fake_tensors(), torch.autocast('cpu', HALF):
        x = torch.empty(2, 4, 8, 8)
        y = nn.Linear(8, 8)(x)
        assert y.dtype == HALF
        assert operator(y).dtype == torch.float32
        assert operator(y.double()).dtype == torch.float64


@pytest.mark.parametrize('dtype', [HALF, torch.float32])
def test_attention_never_holds_its_matrix(dtype):
    batch, heads, length, width = 2, 4, 256, 64
    shape = (batch, heads, length, width)
    with fake_tensors():
        q, k, v = (
            torch.empty(shape, dtype=dtype, requires_grad=True)
            for _ in range(3)
        )
        step = count_step(
            lambda: F.scaled_dot_product_attention(q, k, v),
            lambda output: output.sum().backward(),
        )
        assert q.grad.shape == q.shape
        # The output, and one float32 per row for the gradient.
        rows = batch * heads * length
        assert step.held < q.nbytes + 4 * rows + 8 * 512


@pytest.mark.parametrize('casts', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, HALF])
def test_attention_without_heads_apart_holds_its_matrix(dtype, casts):
    """PyTorch has fused kernels for four dimensions alone."""
    heads, length, width = 8, 256, 64
    with fake_tensors():
        q, k, v = (
            torch.empty(
                (heads, length, width), dtype=dtype, requires_grad=True
            )
            for _ in range(3)
        )
        bias = torch.empty((heads, length, length), dtype=dtype)

        def attend():
            with torch.autocast('cpu', HALF, enabled=casts):
                return F.scaled_dot_product_attention(q, k, v, bias)

        step = count_step(attend, lambda output: output.sum().backward())
        assert q.grad.shape == q.shape
        # Computed in float32 whatever the type.
        assert step.held >= 4 * heads * length**2


def test_dropout_keeps_a_byte_each():
    with fake_tensors():
        x = torch.empty(100, requires_grad=True)
        step = count_step(lambda: F.dropout(x), lambda y: y.sum().backward())
    assert step.held == 100 * (4 + 1)


@pytest.mark.parametrize('reentrant', [True, False])
def test_a_step_that_no_memory_holds(reentrant):
    with fake_tensors(), LiveStorages() as live:
        layer = nn.Linear(1 << 20, 1 << 10, bias=False)
        inputs = torch.empty(8, 1 << 20)
        inputs.requires_grad_()
        output = checkpoint(layer, inputs, use_reentrant=reentrant)
        output.sum().backward()
        assert layer.weight.grad.shape == (1 << 10, 1 << 20)
    assert live.peak > 2 * 4 * (1 << 30)


def test_values_of_labels_are_followed():
    labels = torch.tensor([3, -1, 7, -1])
    with fake_tensors() as values:
        labels = labels.clone()
        found = (labels >= 0).nonzero().squeeze(1)
        assert found.shape == (2,)
        assert labels[labels >= 0].tolist() == [3, 7]
        labels[found] = 1
        assert labels.numpy().tolist() == [1, -1, 1, -1]
        assert (labels == 1).sum().item() == 2
        assert bool((labels > 0).any())
        features = torch.empty(4, 1000)
        assert features[labels > 0].shape == (2, 1000)
    assert not values.assumed


def test_unknown_values_are_zero_and_noted():
    with fake_tensors() as values:
        scores = torch.empty(5)
        assert not bool((scores > 0).any())
        assert isinstance(scores.numpy(), np.ndarray)
    assert sum(values.assumed.values()) == 2


def test_what_is_overwritten_by_unknown_values_is_unknown():
    with fake_tensors() as values:
        known = torch.zeros(5)
        assert values.is_known(known)
        known.add_(torch.empty(5))
        assert not values.is_known(known)


def test_shapes_and_types_of_unknown_values_are_enough():
    with fake_tensors() as values:
        unknown = torch.empty(2, 3, requires_grad=True)
        weights = unknown.new_zeros(4)
        weights[torch.tensor([1, 2])] = 1.0
        assert weights[weights > 0].shape == (2,)
        assert torch.ones_like(unknown).tolist() == [[1.0] * 3] * 2
        assert unknown.new_full((2,), 7).tolist() == [7.0, 7.0]
        assert torch._shape_as_tensor(unknown).tolist() == [2, 3]
    assert not values.assumed


def test_drawn_values_are_followed():
    with fake_tensors() as values:
        scores = torch.empty(100)
        values.draw(scores, 1.0)
        best, order = scores.sort(descending=True)
        assert sorted(order.tolist()) == list(range(100))
        assert best[0].item() > best[-1].item()


def test_operators_of_mmcv_take_fake_tensors():
    ops = pytest.importorskip('mmcv.ops')
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    with fake_tensors():
        kept, index = ops.nms(boxes, scores, 0.5)
        assert index.tolist() == [0, 2]
        assert kept.shape == (2, 5)
        features = torch.empty(1, 256, 50, 50, requires_grad=True)
        rois = torch.cat([torch.zeros(3, 1), boxes], dim=1)
        pooled = ops.roi_align(features, rois, (7, 7), 1.0, 2)
        assert pooled.shape == (3, 256, 7, 7)
        pooled.sum().backward()
        assert features.grad.shape == features.shape


@pytest.mark.parametrize(
    ('for_gpu', 'dtype', 'fused'),
    [
        (True, torch.float32, True),
        # The kernel takes no bfloat16, and a CPU has no kernel.
        (True, HALF, False),
        (False, torch.float32, False),
    ],
)
def test_deformable_attention_holds_its_output(for_gpu, dtype, fused):
    pytest.importorskip('mmcv.ops')
    module = importlib.import_module('mmcv.ops.multi_scale_deform_attn')
    batch, queries, heads, width, points = 2, 6, 4, 8, 3
    sizes = [
        (batch, 20, heads, width),
        (batch, queries, heads, 2, points, 2),
        (batch, queries, heads, 2, points),
    ]
    with fake_tensors(for_gpu):
        shapes = torch.tensor([[4, 4], [2, 2]])
        value, places, weights = tensors = [
            torch.empty(size, dtype=dtype, requires_grad=True)
            for size in sizes
        ]
        step = count_step(
            lambda: module.multi_scale_deformable_attn_pytorch(
                value, shapes, places, weights
            ),
            lambda output: output.sum().backward(),
        )
        assert [tensor.grad.shape for tensor in tensors] == sizes
    output = batch * queries * heads * width * dtype.itemsize
    assert (step.held == output) if fused else (step.held > 2 * output)
