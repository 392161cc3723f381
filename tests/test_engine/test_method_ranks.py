"""Methods that choose or draw, in two processes with gloo on the CPU."""

import pytest

from .fsdp_process import run_two
from .method_ranks_process import METHODS, QUICK, write_bases

# Which what is chosen changes during these six steps.
CHANGE = (
    'SaRA',
    'SNELLA',
    'DyLoRA',
    'MatryoshkaFLoRA, sampled',
)


def both(folder, names):
    write_bases(folder)
    return run_two('test_engine.method_ranks_process', folder, *names)


@pytest.fixture(scope='module')
def quick(tmp_path_factory):
    return both(tmp_path_factory.mktemp('quick'), QUICK)


@pytest.fixture(scope='module')
def others(tmp_path_factory):
    names = [name for name in METHODS if name not in QUICK]
    return both(tmp_path_factory.mktemp('others'), names)


def check(ranks, name):
    """Both ranks choose alike and train the same numbers; images differ."""
    ours, theirs = (rank[name] for rank in ranks)
    assert 'failed' not in ours, ours['failed']
    assert len(ours['losses']) == 6
    assert ours['losses'][0] != theirs['losses'][0], 'the same images'
    for key in ('chosen', 'trained'):
        pairs = zip(ours[key], theirs[key], strict=True)
        for step, (one, other) in enumerate(pairs):
            assert one.keys() == other.keys()
            different = [k for k in one if one[k] != other[k]]
            assert not different, (key, step, different)
    first, *_, last = ours['trained']
    still = [k for k in first if first[k] == last[k]]
    assert len(still) <= len(first) // 2, still
    changes = any(one != ours['chosen'][0] for one in ours['chosen'])
    assert changes == (name in CHANGE)


@pytest.mark.parametrize('name', QUICK)
def test_two_ranks_choose_alike(quick, name):
    check(quick, name)


@pytest.mark.slow
@pytest.mark.parametrize('name', [n for n in METHODS if n not in QUICK])
def test_two_ranks_of_other_methods_choose_alike(others, name):
    check(others, name)
