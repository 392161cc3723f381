"""The linear head of the DINO papers, from a neck and a stock head."""

import mmseg.models  # noqa: F401
import pytest
import torch
from mmseg.registry import MODELS

from mmflora.models import BatchNormNeck

EXACT = dict(rtol=1e-10, atol=1e-12)


def build(width=6, classes=3):
    torch.manual_seed(0)
    neck = BatchNormNeck([width])
    head = MODELS.build(
        dict(
            type='mmseg.FCNHead',
            num_convs=0,
            concat_input=False,
            in_index=0,
            in_channels=width,
            channels=width,
            num_classes=classes,
            dropout_ratio=0.0,
            loss_decode=dict(type='mmseg.CrossEntropyLoss'),
        )
    )
    for parameter in (*neck.parameters(), *head.parameters()):
        torch.nn.init.normal_(parameter)
    return neck.double(), head.double()


@pytest.mark.parametrize('training', [True, False])
def test_norm_and_convolution(training):
    """Logits W (γ (x − µ) / √(σ² + ε) + β) + b, statistics by channel."""
    neck, head = build()
    norm = neck.norms[0]
    torch.nn.init.normal_(norm.running_mean)
    torch.nn.init.uniform_(norm.running_var, 1, 2)
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    image = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    if training:
        mean = image.mean((0, 2, 3))
        variance = ((image - mean[:, None, None]) ** 2).mean((0, 2, 3))
    neck.train(training)
    scaled = (image - mean[:, None, None]) / (
        variance[:, None, None] + norm.eps
    ).sqrt()
    scaled = norm.weight[:, None, None] * scaled + norm.bias[:, None, None]
    weight = head.conv_seg.weight[:, :, 0, 0]
    expected = torch.einsum('oc,nchw->nohw', weight, scaled)
    expected = expected + head.conv_seg.bias[:, None, None]
    torch.testing.assert_close(head(neck([image])), expected, **EXACT)


def test_a_norm_for_each_map():
    neck = BatchNormNeck([4, 6], dict(type='SyncBN', momentum=0.5))
    assert [norm.momentum for norm in neck.norms] == [0.5, 0.5]
    maps = [torch.randn(2, width, 3, 3) for width in (4, 6)]
    assert [image.shape for image in neck(maps)] == [i.shape for i in maps]


def test_refusals():
    with pytest.raises(ValueError, match="'BN' or 'SyncBN'.*LN"):
        BatchNormNeck([4], dict(type='LN'))
    with pytest.raises(ValueError, match=r'in_channels=\[4\].*\[6\]'):
        BatchNormNeck([4])([torch.ones(1, 6, 2, 2)])
