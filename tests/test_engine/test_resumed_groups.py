"""Resuming with other settings: states are kept, the config's values hold."""

import pytest
import torch

from .toy import backbone_cfg, runner, write_base


def wrapper(lr=1e-2, weight_decay=0.05, **paramwise):
    return dict(
        type='OptimWrapper',
        constructor='mmflora.PEFTOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=lr, weight_decay=weight_decay),
        paramwise_cfg=paramwise,
    )


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp('base') / 'base.pth')


@pytest.fixture(scope='module')
def first(base, tmp_path_factory):
    """Return the checkpoint of a first epoch."""
    folder = tmp_path_factory.mktemp('first')
    built = runner(folder, backbone_cfg(base), epochs=1)
    built.train()
    return folder / 'epoch_1.pth'


def resumed(base, path, folder, epochs=1, **options):
    built = runner(
        folder,
        backbone_cfg(base),
        epochs=epochs,
        load_from=str(path),
        resume=True,
        optim_wrapper=wrapper(**options),
    )
    built.train()
    return built


def by_name(optimizer):
    return {
        name: (group, optimizer.state[parameter])
        for group in optimizer.param_groups
        for name, parameter in zip(
            group['param_names'], group['params'], strict=True
        )
    }


CHANGES = {
    'norms apart': dict(norm_decay_mult=0.0),
    'adapters': dict(adapter_lr_mult=2.0, core_lr_mult=3.0),
    'base': dict(lr=2e-2, weight_decay=0.1),
    'names': dict(custom_keys={'head.bias': dict(lr_mult=0.5)}),
}


@pytest.mark.parametrize('name', CHANGES)
def test_new_settings_hold(name, base, first, tmp_path, log_text):
    same = resumed(base, first, tmp_path / 'same')
    assert "Resumed with the config's" not in log_text()
    built = resumed(base, first, tmp_path / 'run', **CHANGES[name])
    fresh = runner(
        tmp_path / 'new',
        backbone_cfg(base),
        optim_wrapper=wrapper(**CHANGES[name]),
    )
    fresh = fresh.build_optim_wrapper(fresh.optim_wrapper).optimizer
    old, new = (
        by_name(same.optim_wrapper.optimizer),
        by_name(built.optim_wrapper.optimizer),
    )
    for key, (group, state) in by_name(fresh).items():
        before, exact = old[key]
        assert not state
        assert new[key][0]['initial_lr'] == group['lr']
        assert new[key][0]['weight_decay'] == group['weight_decay']
        # The schedule has come as far as in the checkpoint.
        share = before['lr'] / before['initial_lr']
        assert share < 1
        assert new[key][0]['lr'] == pytest.approx(group['lr'] * share)
        assert new[key][1].keys() == exact.keys()  # none where unused
        for slot, value in exact.items():
            assert torch.equal(new[key][1][slot], value)
    assert built.optim_wrapper.base_param_settings['lr'] == pytest.approx(
        fresh.defaults['lr'] * share
    )


@pytest.mark.parametrize('name', CHANGES)
def test_training_goes_on_with_them(name, base, first, tmp_path):
    built = resumed(base, first, tmp_path, epochs=6, **CHANGES[name])
    # After the whole of its warm-up every group has its full rate.
    for group in built.optim_wrapper.param_groups:
        assert group['lr'] == pytest.approx(group['initial_lr'])


def test_the_change_is_said(base, first, tmp_path):
    resumed(base, first, tmp_path, adapter_lr_mult=2.0)
    (log,) = tmp_path.glob('*/*.log')
    (line,) = [li for li in log.read_text().splitlines() if 'Resumed' in li]
    assert 'adapters: lr=0.02 instead of 0.01' in line
    assert 'heads' not in line


def test_files_without_names(base, first, tmp_path):
    checkpoint = torch.load(first, weights_only=True)
    for group in checkpoint['optimizer']['param_groups']:
        del group['param_names']
    path = tmp_path / 'old.pth'
    torch.save(checkpoint, path)
    built = resumed(base, path, tmp_path / 'run', adapter_lr_mult=2.0)
    rates = {
        group['name']: group['initial_lr']
        for group in built.optim_wrapper.optimizer.param_groups
    }
    assert rates == dict(adapters=0.02, cores=0.02, heads=0.01)
    with pytest.raises(ValueError, match='names no parameters') as caught:
        resumed(base, path, tmp_path / 'other', norm_decay_mult=0.0)
    assert 'heads: 14 parameters, lr=0.01, weight_decay=0.05' in str(
        caught.value
    )
