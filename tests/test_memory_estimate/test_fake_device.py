"""Fake GPUs, and the values that are followed beside fake tensors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from mmflora.memory_estimate import graph_walk
from mmflora.memory_estimate.fake_device import fake_device
from mmflora.memory_estimate.ledger import Ledger


def test_nothing_is_left_behind():
    before = (
        F.scaled_dot_product_attention,
        torch.get_rng_state,
        torch.autograd.grad,
        torch.cuda.is_bf16_supported,
        torch.autograd.Function.apply,
    )
    numpy = vars(FakeTensor).get('numpy')
    with fake_device('cuda'):
        assert torch.empty(2, device='cuda').is_cuda
    assert before == (
        F.scaled_dot_product_attention,
        torch.get_rng_state,
        torch.autograd.grad,
        torch.cuda.is_bf16_supported,
        torch.autograd.Function.apply,
    )
    assert vars(FakeTensor).get('numpy') is numpy


def test_autocast_follows_the_gpu():
    with fake_device('cuda'), torch.autocast('cuda', torch.bfloat16):
        x = torch.empty(2, 4, 8, device='cuda')
        y = nn.Linear(8, 8, device='cuda')(x)
        assert y.dtype == torch.bfloat16
        # A GPU's list has norms in float32, a CPU's has not.
        assert F.layer_norm(y, (8,)).dtype == torch.float32


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_attention_never_holds_its_matrix(dtype):
    batch, heads, length, width = 2, 4, 256, 64
    shape = (batch, heads, length, width)
    with fake_device('cuda'), Ledger('cuda') as ledger:
        q, k, v = (
            torch.empty(shape, dtype=dtype, device='cuda', requires_grad=True)
            for _ in range(3)
        )
        ledger.restart_peak()
        before = ledger.held
        output = F.scaled_dot_product_attention(q, k, v)
        kept = ledger.held - before
        graph_walk.backward([output.sum()])
        assert q.grad.shape == q.shape
    # The output, and one float32 per row for the gradient.
    rows = batch * heads * length
    assert kept < output.nbytes + 4 * rows + 8 * 512


def test_a_step_on_a_gpu_that_is_not_there():
    with fake_device('cuda'), Ledger('cuda') as ledger:
        layer = nn.Linear(1 << 20, 1 << 10, device='cuda', bias=False)
        loss = [layer(torch.empty(8, 1 << 20, device='cuda')).sum()]
        graph_walk.backward(loss)
        assert layer.weight.grad.shape == (1 << 10, 1 << 20)
    assert ledger.peak > 2 * 4 * (1 << 30)


def test_values_of_labels_are_followed():
    labels = torch.tensor([3, -1, 7, -1])
    with fake_device('cuda') as values:
        labels = labels.to('cuda')
        found = (labels >= 0).nonzero().squeeze(1)
        assert found.shape == (2,)
        assert found.device.type == 'cuda'
        assert labels[labels >= 0].tolist() == [3, 7]
        labels[found] = 1
        assert labels.cpu().numpy().tolist() == [1, -1, 1, -1]
        assert (labels == 1).sum().item() == 2
        assert bool((labels > 0).any())
        features = torch.empty(4, 1000, device='cuda')
        assert features[labels > 0].shape == (2, 1000)
    assert not values.assumed


def test_unknown_values_are_zero_and_noted():
    with fake_device('cuda') as values:
        scores = torch.empty(5, device='cuda')
        assert not bool((scores > 0).any())
        assert isinstance(scores.cpu().numpy(), np.ndarray)
    assert sum(values.assumed.values()) == 2


def test_what_is_overwritten_by_unknown_values_is_unknown():
    with fake_device('cuda') as values:
        known = torch.zeros(5, device='cuda')
        assert values.is_known(known)
        known.add_(torch.empty(5, device='cuda'))
        assert not values.is_known(known)


def test_drawn_values_are_followed():
    with fake_device('cuda') as values:
        scores = torch.empty(100, device='cuda')
        values.draw(scores, 1.0)
        best, order = scores.sort(descending=True)
        assert sorted(order.tolist()) == list(range(100))
        assert best[0].item() > best[-1].item()


def test_operators_of_mmcv_take_fake_tensors():
    ops = pytest.importorskip('mmcv.ops')
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    with fake_device('cuda'):
        kept, index = ops.nms(boxes.to('cuda'), scores.to('cuda'), 0.5)
        assert index.tolist() == [0, 2]
        assert kept.shape == (2, 5)
        features = torch.empty(
            1, 256, 50, 50, device='cuda', requires_grad=True
        )
        rois = torch.cat([torch.zeros(3, 1), boxes], dim=1).to('cuda')
        pooled = ops.roi_align(features, rois, (7, 7), 1.0, 2)
        assert pooled.shape == (3, 256, 7, 7)
        graph_walk.backward([pooled.sum()])
        assert features.grad.shape == features.shape
