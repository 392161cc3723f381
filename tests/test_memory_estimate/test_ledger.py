import torch
from torch import nn

from mmflora.memory_estimate.ledger import (
    CUDA_BLOCK,
    Ledger,
    owned_by_modules,
    rounded,
)

FLOAT = 4


def test_bytes_have_owners_until_they_are_gone():
    with Ledger('cpu') as ledger:
        ledger.owner = 'first'
        first = torch.ones(10)
        ledger.owner = 'second'
        second = first + 1
        view = second[:5]
        assert ledger.by_owner == {'first': 10 * FLOAT, 'second': 10 * FLOAT}
        del first
        assert ledger.by_owner['first'] == 0
        del second
        assert ledger.by_owner['second'] == 10 * FLOAT
        del view
    assert ledger.held == 0
    assert ledger.at_peak == {'first': 10 * FLOAT, 'second': 10 * FLOAT}


def test_what_is_given_away_changes_its_owner():
    with Ledger('cpu') as ledger:
        ledger.owner = 'first'
        tensor = torch.ones(10)
        ledger.give(tensor, 'second')
        assert ledger.by_owner == {'first': 0, 'second': 10 * FLOAT}
        del tensor
    assert not any(ledger.by_owner.values())


def test_modules_own_what_they_make():
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 2)))
    inputs = torch.ones(3, 4)
    with Ledger('cpu') as ledger, owned_by_modules(model, ledger):
        kept = model(inputs)
        ledger.owner = 'mine'
        more = kept + 1
    assert ledger.by_owner['0'] == 3 * 8 * FLOAT
    assert ledger.by_owner['1.0'] == 3 * 2 * FLOAT
    assert ledger.by_owner['mine'] == more.nbytes


def test_other_devices_do_not_count():
    with Ledger('cpu') as ledger:
        kept = torch.ones(10, device='meta')
    assert ledger.held == 0
    assert kept.numel() == 10


def test_a_gpu_gives_whole_blocks():
    assert rounded(1, 'cuda') == CUDA_BLOCK
    assert rounded(CUDA_BLOCK, 'cuda') == CUDA_BLOCK
    assert rounded(CUDA_BLOCK + 1, 'cuda') == 2 * CUDA_BLOCK
    assert rounded(1, 'cpu') == 1


def test_a_peak_can_start_anew():
    with Ledger('cpu') as ledger:
        kept = torch.ones(10)
        torch.ones(1000)
        ledger.restart_peak()
        assert ledger.peak == ledger.held == kept.nbytes
