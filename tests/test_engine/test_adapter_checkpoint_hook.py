import copy
import errno
import json
import os
from pathlib import Path

import mmdet.models  # noqa: F401
import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import find_latest_checkpoint

from mmflora.checkpoint import BaseRecord, content_hash
from mmflora.engine import AtomicLocalBackend

from .toy import Logits, ToyModel, backbone_cfg, runner, write_base


def trained(tmp_path, base, name='run', **kwargs):
    """Train two epochs and return the runner."""
    work_dir = tmp_path / name
    built = runner(work_dir, backbone_cfg(base), **kwargs)
    built.train()
    return built


def logits_of(built, checkpoint):
    """Return what Runner.test() predicts."""
    built._load_from = str(checkpoint)
    built.test()
    return Logits.last


def read(path):
    return torch.load(path, weights_only=False)


def test_checkpoint_holds_what_trains_and_every_buffer(tmp_path, base):
    built = trained(tmp_path, base)
    checkpoint = read(tmp_path / 'run/epoch_2.pth')
    model = built.model
    record = model.backbone.base_record
    frozen = {f'backbone.{key}' for key in record.base_keys}
    expected = set(model.state_dict()) - frozen
    assert set(checkpoint['state_dict']) == expected
    buffers = {name for name, _ in model.named_buffers()}
    assert {'neck.1.running_mean', 'neck.1.num_batches_tracked'} < buffers
    assert buffers <= set(checkpoint['state_dict'])
    trainable = {
        name for name, p in model.named_parameters() if p.requires_grad
    }
    assert trainable == expected - buffers
    assert {'optimizer', 'param_schedulers', 'message_hub'} < set(checkpoint)


def test_meta_names_method_base_and_versions(tmp_path, base):
    built = trained(tmp_path, base)
    meta = read(tmp_path / 'run/epoch_2.pth')['meta']['mmflora']
    described = meta['backbones']['backbone']
    assert described['base']['checkpoint'] == str(base)
    assert described['base_saved_along'] is False
    assert described['method']['adapter'] == dict(type='FLoRA', rank=4)
    plain = MODELS.build(
        dict(
            type='mmflora.ConvNeXt',
            arch=backbone_cfg()['arch'],
            init_cfg=backbone_cfg(base)['init_cfg'],
        )
    )
    plain.init_weights()
    own = dict(plain.named_parameters())
    keys = built.model.backbone.base_record.base_keys
    expected = content_hash({key: own[key] for key in keys})
    assert described['base_sha256'] == expected
    assert {'version', 'torch_version', 'mmengine_version'} < set(meta)


@pytest.mark.parametrize('change', ['other', 'gone', 'changed'])
def test_wrong_base_is_refused(tmp_path, base, change):
    trained(tmp_path, base)
    checkpoint = tmp_path / 'run/epoch_2.pth'
    config, error, message = backbone_cfg(), ValueError, 'holds other weights'
    if change == 'other':
        other = write_base(tmp_path / 'other.pth', seed=1)
        config, message = backbone_cfg(other), 'trained over the base'
    elif change == 'gone':
        base.unlink()
        error, message = FileNotFoundError, 'MMFLORA_BASES'
    else:
        write_base(base, seed=1)
    fresh = runner(tmp_path / 'test', config, test=True)
    with pytest.raises(error, match=message):
        logits_of(fresh, checkpoint)


@pytest.mark.parametrize('key', ['head.weight', 'neck.1.running_mean'])
def test_incomplete_checkpoint_is_not_tested(tmp_path, base, key):
    trained(tmp_path, base)
    path = tmp_path / 'run/epoch_2.pth'
    checkpoint = read(path)
    del checkpoint['state_dict'][key]
    torch.save(checkpoint, path)
    fresh = runner(tmp_path / 'test', backbone_cfg(base), test=True)
    with pytest.raises(ValueError, match=f'missing in the file: {key}'):
        logits_of(fresh, path)


def test_base_checkpoint_is_not_tested_as_adapters(tmp_path, base):
    whole = tmp_path / 'whole.pth'
    state = {
        f'backbone.{key}': value
        for key, value in read(base)['state_dict'].items()
    }
    torch.save(dict(state_dict=state), whole)
    fresh = runner(tmp_path / 'test', backbone_cfg(base), test=True)
    with pytest.raises(ValueError, match='would stay random'):
        logits_of(fresh, whole)


def test_random_base_is_refused(tmp_path):
    built = runner(tmp_path / 'run', backbone_cfg())
    with pytest.raises(ValueError, match='has no base weights'):
        built.train()
    assert not list((tmp_path / 'run').glob('*.pth'))


def test_random_base_on_purpose_is_saved_along(tmp_path):
    config = backbone_cfg(allow_random_base=True)
    built = runner(tmp_path / 'run', config)
    built.train()
    checkpoint = read(tmp_path / 'run/epoch_2.pth')
    assert set(checkpoint['state_dict']) == set(built.model.state_dict())
    again = runner(tmp_path / 'test', config, test=True)
    got = logits_of(again, tmp_path / 'run/epoch_2.pth')
    built.model.eval()
    images = torch.stack(
        [built.train_dataloader.dataset[i]['inputs'] for i in range(4)]
    )
    with torch.no_grad():
        assert torch.equal(got[:4], built.model(images))
    resumed = runner(tmp_path / 'run', config, epochs=3, resume=True)
    resumed.train()
    last = read(tmp_path / 'run/epoch_3.pth')
    assert set(last['state_dict']) == set(built.model.state_dict())


RESNET = dict(
    type='mmflora.PEFTBackbone',
    adapter=dict(type='FLoRA', rank=2),
    backbone=dict(
        type='mmdet.ResNet',
        depth=18,
        base_channels=4,
        strides=(1, 1, 1, 1),
        norm_cfg=dict(type='BN', requires_grad=False),
    ),
)


@pytest.mark.parametrize('prefix', ['', 'detector.'])
@pytest.mark.parametrize('own', [True, False], ids=['both', 'model alone'])
def test_init_cfg_of_the_model_brings_the_base(tmp_path, base, own, prefix):
    """As in configs that start from a whole detector."""
    plain = dict(type='mmflora.ConvNeXt', arch=backbone_cfg()['arch'])
    torch.manual_seed(5)
    whole = tmp_path / 'whole.pth'
    state = ToyModel(plain).state_dict()
    torch.save({f'{prefix}{key}': state[key] for key in state}, whole)

    def built(name, **kwargs):
        model = ToyModel(backbone_cfg(base if own else None))
        model.init_cfg = dict(type='Pretrained', checkpoint=str(whole))
        model.init_cfg |= dict(prefix=prefix) if prefix else {}
        return runner(tmp_path / name, None, model=model, **kwargs)

    run = built('run')
    run.train()
    record = run.model.backbone.base_record
    assert record.source['checkpoint'] == str(whole)
    assert record.source['prefix'] == f'{prefix}backbone.'
    parameters = dict(run.model.backbone.named_parameters())
    for key in record.base_keys:
        assert torch.equal(parameters[key], state[f'backbone.{key}'])
    checkpoint = tmp_path / 'run/epoch_2.pth'
    held = read(checkpoint)['state_dict']
    assert f'backbone.{record.base_keys[0]}' not in held
    fresh = built('test', test=True)
    logits_of(fresh, checkpoint)
    theirs = fresh.model.backbone.base_record
    assert theirs.sha256 == record.sha256


@pytest.mark.parametrize(
    ('depth', 'part'),
    [(34, 'unknown to the model: layer1.2'), (10, 'missing in the file')],
)
def test_init_cfg_of_the_model_must_fit(tmp_path, depth, part):
    """A deeper network's weights would fit in every shape."""
    theirs = dict(RESNET['backbone'], depth=max(depth, 18))
    state = {
        f'backbone.{key}': value
        for key, value in MODELS.build(theirs).state_dict().items()
        if depth > 18 or not key.startswith('layer4.1.')
    }
    torch.save(dict(state_dict=state), tmp_path / 'whole.pth')
    model = ToyModel(RESNET)
    path = str(tmp_path / 'whole.pth')
    model.init_cfg = dict(type='Pretrained', checkpoint=path)
    with pytest.raises(ValueError, match=part):
        runner(tmp_path / 'run', None, model=model).train()


def test_load_from_a_whole_model_becomes_the_base(tmp_path, base):
    plain = dict(type='mmflora.ConvNeXt', arch=backbone_cfg()['arch'])
    torch.manual_seed(5)
    whole = tmp_path / 'whole.pth'
    torch.save(dict(state_dict=ToyModel(plain).state_dict()), whole)
    built = trained(tmp_path, base, load_from=str(whole))
    state = read(whole)['state_dict']
    record = built.model.backbone.base_record
    assert record.origin == 'load_from'
    own = dict(built.model.backbone.named_parameters())
    for key in record.base_keys:
        assert torch.equal(own[key], state[f'backbone.{key}'])
    checkpoint = tmp_path / 'run/epoch_2.pth'
    assert (
        f'backbone.{record.base_keys[0]}' not in read(checkpoint)['state_dict']
    )
    # The same configuration tests it, though its init_cfg names another base.
    fresh = runner(tmp_path / 'test', backbone_cfg(base), test=True)
    got = logits_of(fresh, checkpoint)
    built.model.eval()
    images = torch.stack(
        [built.train_dataloader.dataset[i]['inputs'] for i in range(4)]
    )
    with torch.no_grad():
        assert torch.equal(got[:4], built.model(images))


def test_adapters_start_a_training_with_another_head(tmp_path, base):
    trained(tmp_path, base)
    path = tmp_path / 'run/epoch_2.pth'
    other = ToyModel(backbone_cfg(base), num_classes=3)
    other.head = torch.nn.Linear(8, 5)
    built = runner(
        tmp_path / 'next',
        backbone_cfg(base),
        model=other,
        load_from=str(path),
        epochs=1,
    )
    seen = {}

    def keep(*_, **__):
        seen.update(copy.deepcopy(built.model.state_dict()))

    built.hooks[0].before_train = keep
    built.train()
    state = read(path)['state_dict']
    for key in state:
        if key.startswith('backbone.'):
            assert torch.equal(seen[key], state[key]), key
    assert seen['head.weight'].shape == (5, 8)


def test_full_disk_keeps_the_last_good_file(tmp_path, base, monkeypatch):
    built = runner(
        tmp_path / 'run', backbone_cfg(base), hook=dict(max_keep_ckpts=1)
    )
    real = os.fsync
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, 'No space left on device')
        real(descriptor)

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        built.train()
    files = sorted(p.name for p in (tmp_path / 'run').glob('.*'))
    assert files == []
    assert find_latest_checkpoint(str(tmp_path / 'run')).endswith(
        'epoch_1.pth'
    )
    monkeypatch.undo()
    resumed = runner(
        tmp_path / 'run',
        backbone_cfg(base),
        hook=dict(max_keep_ckpts=1),
        resume=True,
    )
    resumed.train()
    assert (tmp_path / 'run/epoch_2.pth').exists()
    assert not (tmp_path / 'run/epoch_1.pth').exists()


def test_removals_wait_for_success(tmp_path):
    backend = AtomicLocalBackend()
    old = tmp_path / 'old.pth'
    old.write_bytes(b'old')

    def fail_after_removal():
        with backend.removals_after_success():
            backend.remove(old)
            raise RuntimeError('full disk')

    with pytest.raises(RuntimeError, match='full disk'):
        fail_after_removal()
    assert old.exists()
    with backend.removals_after_success():
        backend.remove(old)
        assert old.exists()
    assert not old.exists()


def test_best_checkpoint_is_replaced_after_its_successor(tmp_path, base):
    built = runner(
        tmp_path / 'run',
        backbone_cfg(base),
        hook=dict(save_best='score', rule='greater'),
    )
    hook = next(
        h for h in built.hooks if type(h).__name__ == 'AdapterCheckpointHook'
    )
    built._train_loop = built.build_train_loop(built._train_loop)
    built.optim_wrapper = built.build_optim_wrapper(built.optim_wrapper)
    built.param_schedulers = None
    hook.before_train(built)
    hook._save_best_checkpoint(built, dict(score=0.1))
    first = Path(hook.best_ckpt_path)
    assert first.exists()
    built.train_loop._epoch += 1
    hook._save_best_checkpoint(built, dict(score=0.2))
    second = Path(hook.best_ckpt_path)
    assert second.exists()
    assert second != first
    assert not first.exists()
    assert json.dumps(read(second)['meta']['mmflora'], default=str)


def test_record_follows_the_model_to_a_copy(tmp_path, base):
    built = runner(tmp_path / 'run', backbone_cfg(base))
    record = copy.deepcopy(built.model).backbone.base_record
    assert isinstance(record, BaseRecord)
    assert record.source == built.model.backbone.base_record.source
