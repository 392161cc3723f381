"""Starts from data that two processes share, with gloo on the CPU."""

import pytest
import torch

from .calibration_process import METHODS, starts
from .fsdp_process import run_two
from .toy import write_base

# Sums of float32 in another order, and vectors of near singular values.
BOUND = 1e-4
# Its map is one pixel: one entry of the kernel alone has a gradient, so that
# all but the first vector of each mode may be any.
UNDETERMINED = ('FLoRA', 'backbone.stages.3.blocks.0.conv_dw')


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """The starts of either rank, and the base under them."""
    folder = tmp_path_factory.mktemp('ranks')
    base = write_base(folder / 'base.pth')
    run_two('test_engine.calibration_process', folder, base)
    found = [
        torch.load(folder / f'starts{rank}.pth', weights_only=True)
        for rank in range(2)
    ]
    return found, base


def whole(state):
    """Return what a start is, whatever the signs of its vectors are."""
    if 'start_up' in state:  # CorDA
        return state['start_up'] @ state['start_down'].flatten(1)
    if 'left' in state:  # LoRA-SB
        return state['left'] @ state['core'] @ state['right'].flatten(1)
    factors = [v for k, v in state.items() if k.startswith('factors')]
    return torch.cat([(one @ one.T).flatten() for one in factors])


@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
def test_two_ranks_get_one_start_that_of_one_rank(ranks, method, tmp_path):
    (first, second), base = ranks
    alone = starts(tmp_path, base, method, 4)
    assert first[method].keys() == second[method].keys() == alone.keys()
    for name, state in first[method].items():
        for key, value in state.items():
            assert torch.equal(value, second[method][name][key]), (name, key)
        if (method, name) == UNDETERMINED:
            continue
        ours, theirs = whole(state), whole(alone[name])
        assert theirs.norm() > 0
        assert (ours - theirs).norm() <= BOUND * theirs.norm(), name
