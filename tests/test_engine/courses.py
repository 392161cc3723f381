"""Comparing two runs, by all that their last checkpoints say."""

import torch

# What the clock and the machine's memory give.
VARIES = ('time', 'memory')


def course(path):
    """Return what a checkpoint says of its run, every logged value too."""
    found = torch.load(path, weights_only=True)
    hub, meta = found.pop('message_hub'), found.pop('meta')
    scalars = {
        key: value['_history_buffer']['values']
        for key, value in hub['log_scalars'].items()
        if not any(word in key for word in VARIES)
    }
    keys = ('seed', 'epoch', 'iter')
    return dict(found, scalars=scalars, meta={key: meta[key] for key in keys})


def flat(value, name=''):
    """Yield the leaves of nested containers, by name."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, item in items:
        yield from flat(item, f'{name}/{key}')


def assert_same_course(ours, theirs):
    """Check two checkpoints bit for bit: weights, optimizer, losses, …"""
    ours, theirs = dict(flat(course(ours))), dict(flat(course(theirs)))
    missing = ours.keys() ^ theirs.keys()
    assert not missing, sorted(missing)
    losses = [key for key in ours if key.endswith('/train/loss')]
    assert losses
    for key in (*losses, *ours):
        value = ours[key]
        same = (
            torch.equal(value.nan_to_num(), theirs[key].nan_to_num())
            if isinstance(value, torch.Tensor)
            else value == theirs[key]
        )
        assert same, (key, value, theirs[key])
