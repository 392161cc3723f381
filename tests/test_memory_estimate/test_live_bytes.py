"""The counter of live storages, on cases that are counted by hand."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from mmflora.memory_estimate.live_bytes import (
    LiveStorages,
    StepBytes,
    count_step,
    owned_by_modules,
)

FLOAT = 4


def test_a_storage_counts_once_and_as_long_as_it_is_held():
    inputs = torch.ones(8, 16)
    with LiveStorages() as live:
        first = inputs + 1
        assert live.held == 8 * 16 * FLOAT
        view = first[:2].view(-1)
        assert live.held == 8 * 16 * FLOAT
        second = first.double()
        assert live.held == 8 * 16 * (FLOAT + 8)
        del first
        assert live.held == 8 * 16 * (FLOAT + 8)
    del view
    assert live.held == 8 * 16 * 8
    del second
    assert live.held == 0
    assert live.peak == 8 * 16 * (FLOAT + 8)


def test_what_was_there_before_does_not_count():
    inputs = torch.ones(8, 16)
    with LiveStorages() as live:
        inputs.mul_(2)
        view = inputs.view(-1)
        del inputs, view
    assert live.held == live.peak == 0


def test_what_is_made_of_numbers_counts():
    with LiveStorages() as live:
        values = torch.tensor([1.0, 2.0])
        more = values.new_tensor([1.0, 2.0, 3.0])
    assert live.held == values.nbytes + more.nbytes == 5 * FLOAT


def test_a_reused_address_counts_anew():
    with LiveStorages() as live:
        for _ in range(20):
            old = torch.ones(1000)  # the one before may lie at its address
            assert live.held == 1000 * FLOAT
            del old
            assert live.held == 0
    assert live.peak == 1000 * FLOAT


def test_a_resized_result_counts_in_full():
    with LiveStorages() as live:
        output = torch.empty(0)
        torch.add(torch.ones(5), torch.ones(5), out=output)
        assert live.held == 5 * FLOAT


@pytest.fixture
def layer():
    """Two products and two element-wise functions; nothing else is held."""
    weight = nn.Parameter(torch.randn(32, 16))
    inputs = torch.randn(8, 16, requires_grad=True)

    def run(values: Tensor) -> Tensor:
        return torch.sin(torch.cos(values @ weight.T) @ weight)

    return run, inputs


WIDE, NARROW = 8 * 32 * FLOAT, 8 * 16 * FLOAT


def test_autograd_keeps_what_its_formulas_need(layer):
    run, inputs = layer
    step = count_step(lambda: run(inputs), lambda y: y.sum().backward())
    # The inputs of cos and sin, the second product's input, and the output.
    assert step.held == WIDE + WIDE + NARROW + NARROW
    assert step.peak > step.held


def test_cache_of_selective_checkpointing_counts(layer):
    def policy(_context, operator, *_args, **_kwargs):
        if operator == torch.ops.aten.mm.default:
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    run, inputs = layer
    contexts = partial(create_selective_checkpoint_contexts, policy)
    step = count_step(
        lambda: checkpoint(
            run, inputs, use_reentrant=False, context_fn=contexts
        ),
        lambda output: output.sum().backward(),
    )
    # Both products wait in the cache; the output is the caller's.
    assert step.held == WIDE + NARROW + NARROW


def test_full_checkpointing_keeps_the_output_alone(layer):
    run, inputs = layer
    step = count_step(
        lambda: checkpoint(run, inputs, use_reentrant=False),
        lambda output: output.sum().backward(),
    )
    assert step.held == NARROW


def test_peak_has_the_gradients():
    model = nn.Linear(16, 32, bias=False)
    inputs = torch.randn(8, 16)
    step = count_step(lambda: model(inputs), lambda y: y.sum().backward())
    gradient = 32 * 16 * FLOAT
    # The output, its sum, the sum's gradient (spread without memory), and
    # the weight's gradient.
    assert step == StepBytes(WIDE, WIDE + 2 * FLOAT + gradient)


def test_it_is_the_same_each_time_and_under_fake_tensors():
    def count():
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(288, 5)
        )
        images = torch.randn(2, 3, 8, 8)
        return count_step(lambda: model(images), lambda y: y.sum().backward())

    real = count()
    assert real.held > 0
    assert count() == real
    with FakeTensorMode():
        assert count() == real


def test_bytes_have_owners_until_they_are_gone():
    with LiveStorages() as live:
        live.owner = 'first'
        first = torch.ones(10)
        live.owner = 'second'
        second = first + 1
        view = second[:5]
        assert live.by_owner == {'first': 10 * FLOAT, 'second': 10 * FLOAT}
        del first
        assert live.by_owner['first'] == 0
        del second
        assert live.by_owner['second'] == 10 * FLOAT
        del view
    assert live.held == 0
    assert live.at_peak == {'first': 10 * FLOAT, 'second': 10 * FLOAT}


def test_what_is_given_away_changes_its_owner():
    with LiveStorages() as live:
        live.owner = 'first'
        tensor = torch.ones(10)
        live.give(tensor, 'second')
        assert live.by_owner == {'first': 0, 'second': 10 * FLOAT}
        live.give(tensor, None)
        assert live.held == 0
        del tensor
    assert not any(live.by_owner.values())


def test_modules_own_what_they_make():
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 2)))
    inputs = torch.ones(3, 4)
    with LiveStorages() as live, owned_by_modules(model, live):
        kept = model(inputs)
        live.owner = 'mine'
        more = kept + 1
    assert live.by_owner['0'] == 3 * 8 * FLOAT
    assert live.by_owner['1.0'] == 3 * 2 * FLOAT
    assert live.by_owner['mine'] == more.nbytes


def test_an_allocator_gives_whole_blocks():
    with LiveStorages(block=512) as live:
        kept = [torch.ones(n) for n in (1, 128, 129)]
    assert live.held == 512 + 512 + 1024
    assert len(kept) == 3


def test_a_peak_can_be_taken():
    with LiveStorages() as live:
        kept = torch.ones(10)
        torch.ones(1000)
        assert live.take_peak() == {'': 1010 * FLOAT}
        assert live.peak == live.held == kept.nbytes
        assert live.take_peak() == {'': kept.nbytes}
