"""Two tasks on one ConvNeXt-V2-L: the switch takes no time, memory is shared.

Slow: the two models hold 0.8 GB each until they share the base.
"""

import time

import pytest
import torch
from torch import nn

from mmflora.models import FLoRAConvNeXt
from mmflora.tasks import TaskSet

from .conftest import storage_bytes

LIMIT = 0.05
"""Seconds that a switch may take."""


class Model(nn.Module):
    def __init__(self, state=None):
        super().__init__()
        self.backbone = FLoRAConvNeXt(
            'convnextv2_large',
            adapter=dict(type='FLoRA', rank=16),
            allow_random_base=True,
        )
        if state is not None:
            own = self.backbone.state_dict()
            for key in self.backbone.base_record.base_keys:
                own[key].copy_(state[key])


@pytest.mark.slow
def test_a_switch_is_fast_and_a_task_small():
    torch.manual_seed(0)
    first = Model()
    second = Model(first.backbone.state_dict())
    tasks = TaskSet()
    tasks.add('first', first)
    tasks.add('second', second)
    times = []
    for name in ('second', 'first') * 10:
        started = time.perf_counter()
        tasks.activate(name)
        times.append(time.perf_counter() - started)
    assert sorted(times)[len(times) // 2] < LIMIT
    adapters = sum(
        parameter.numel() * 4
        for parameter in second.parameters()
        if parameter.requires_grad
    )
    buffers = sum(b.numel() * b.element_size() for b in second.buffers())
    assert tasks.own_bytes('second') == adapters + buffers
    assert adapters < 25e6
    whole = storage_bytes(first, second)
    assert whole == tasks.base.bytes() + 2 * tasks.own_bytes('second')
