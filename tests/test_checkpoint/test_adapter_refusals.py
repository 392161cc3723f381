import pytest
import torch
from adapter_models import (
    IMAGES,
    Detector,
    build,
    plain_state,
    prefixed,
    pretrained,
    record_of,
    refused,
)
from convnext_files import V1, V2, stock_net

from mmflora.checkpoint import BaseRecord
from mmflora.checkpoint.state import INFO_KEY


def test_adapters_of_another_base(state, kind, base, tmp_path):
    other_base = tmp_path / 'other.pth'
    torch.save(stock_net(V2, seed=7).state_dict(), other_base)
    model = build(kind, other_base)
    before = model(IMAGES)
    message = refused(ValueError, model, state)
    assert str(base) in message
    assert str(other_base) in message
    assert 'init_cfg.checkpoint' in message
    assert torch.equal(model(IMAGES), before)


def test_base_that_is_truncated(state, kind, base):
    base.write_bytes(base.read_bytes()[:1000])
    message = refused(ValueError, build(kind), state)
    assert str(base) in message


MISFITS = {
    'rank': dict(adapter=dict(type='FLoRA', rank=3)),
    'kernel rank': dict(adapter=dict(type='FLoRA', rank=2, kernel_rank=1)),
    'targets': dict(targets=r'stages\..*'),
    'exclude': dict(exclude=r'stem\..*'),
    'no adapters': dict(out_indices=(3,)),
}


@pytest.mark.parametrize('with_base', [True, False], ids=['base', 'no base'])
@pytest.mark.parametrize('options', MISFITS.values(), ids=MISFITS)
def test_adapters_of_another_method_are_listed(
    options, with_base, state, kind, base
):
    model = build(kind, base if with_base else None, **options)
    message = refused(ValueError, model, state)
    assert 'does not fit' in message
    assert "'rank': 2" in message
    assert '.adapter.' in message or 'norm0' in message


@pytest.mark.parametrize(
    'arch',
    [
        dict(V2, dims=(6, 8, 12, 18)),
        dict(V2, depths=(1, 2, 1, 2)),
        dict(V2, conv_mlp=True),
    ],
    ids=['wider', 'deeper', 'other blocks'],
)
def test_adapters_of_another_architecture_are_listed(arch, state, kind):
    message = refused(ValueError, build(kind, arch=arch), state)
    assert '.adapter.' in message


def test_another_scale_would_give_other_outputs(state, kind, base):
    """No shape tells it, so that the checkpoint itself must."""
    model = build(kind, base, adapter=dict(type='FLoRA', rank=2, scale=1.0))
    message = refused(ValueError, model, state)
    assert 'scale' in message


def test_a_missing_adapter_is_listed(state, kind, base):
    key = next(key for key in state if key.endswith('.adapter.core'))
    del state[key]
    message = refused(ValueError, build(kind, base), state)
    assert f'missing in the file: {key.removeprefix("backbone.")}' in message


def test_damaged_record(state, kind, base):
    key = next(key for key in state if key.endswith(INFO_KEY))
    state[key] = state[key][:40]
    assert 'damaged' in refused(ValueError, build(kind, base), state)


def test_part_of_a_base_beside_adapters_is_refused(trained, kind, base):
    state = trained.state_dict()
    key = next(key for key in state if key.endswith('stem.0.weight'))
    del state[key]
    message = refused(ValueError, build(kind, base), state)
    assert 'missing in the file: stem.0.weight' in message


@pytest.mark.parametrize('with_base', [True, False], ids=['base', 'no base'])
def test_adapters_over_a_random_base_need_it(kind, base, with_base):
    model = build(kind, allow_random_base=True)
    prefix = 'backbone.' if kind is Detector else ''
    state = model.state_dict()
    for key in record_of(model).base_keys:
        del state[prefix + key]
    other = build(kind, base if with_base else None)
    message = refused(ValueError, other, state)
    assert 'random' in message


def test_part_of_a_base_is_refused(trained, kind):
    state = prefixed(kind, plain_state())
    del state[next(key for key in state if key.endswith('stem.0.weight'))]
    before = trained(IMAGES)
    message = refused(ValueError, trained, state)
    assert 'missing in the file: stem.0.weight' in message
    assert torch.equal(trained(IMAGES), before)


def test_base_of_another_architecture_is_refused(trained, kind):
    net = stock_net(V1)
    message = refused(ValueError, trained, prefixed(kind, net.state_dict()))
    assert 'grn' in message


def told(info, **changes):
    """Return a record that says something else."""
    record = BaseRecord((), (), BaseRecord.decode(info)['method'])
    said = BaseRecord.decode(info) | changes
    record.set_base(said['source'], said['sha256'], said['origin'])
    return record.info


# What a file's record says of its base, the base that the model has, and what
# comes of it: the content decides, and the name only where it is looked for.
RECORDS = {
    'as written, base in place': ({}, 'base', 'silence'),
    'as written, no base': ({}, None, 'silence'),
    'as written, another base': ({}, 'other', 'stands on'),
    'another name, base in place': (dict(source='copy'), 'base', 'said'),
    'another name, no base': (dict(source='copy'), None, 'silence'),
    'a missing name, base in place': (dict(source='nix'), 'base', 'said'),
    'a missing name, no base': (dict(source='nix'), None, 'not there'),
    'name of other weights, no base': (
        dict(source='other'),
        None,
        'other weights',
    ),
    'another hash, base in place': (dict(sha256='0' * 64), 'base', 'stands'),
    'another hash, no base': (dict(sha256='0' * 64), None, 'other weights'),
    'no hash, base in place': (dict(sha256=None), 'base', 'no content hash'),
    'no hash, no base': (dict(sha256=None), None, 'no content hash'),
    'no hash, no name': (
        dict(source=None, sha256=None),
        'base',
        'random base',
    ),
}


@pytest.mark.parametrize(
    ('said', 'ours', 'outcome'), RECORDS.values(), ids=RECORDS
)
def test_what_a_record_says_of_its_base(
    said, ours, outcome, trained, state, kind, base, tmp_path, log_text
):
    files = dict(base=base, nix=tmp_path / 'nix.pth')
    files['other'], files['copy'] = tmp_path / 'other.pth', tmp_path / 'copy'
    torch.save(stock_net(V2, seed=7).state_dict(), files['other'])
    torch.save(torch.load(base, weights_only=True), files['copy'])
    if said.get('source'):
        said = dict(said, source=pretrained(files[said['source']]))
    key = next(key for key in state if key.endswith(INFO_KEY))
    state[key] = told(state[key], **said)
    model = build(kind, files.get(ours))
    if outcome not in ('silence', 'said'):
        with pytest.raises((ValueError, FileNotFoundError), match=outcome):
            model.load_state_dict(state, strict=False)
        return
    model.load_state_dict(state, strict=True)
    assert torch.equal(model(IMAGES), trained(IMAGES))
    assert ('same content' in log_text()) == (outcome == 'said')


def test_adapters_without_a_record_are_refused(trained, kind, base):
    """Nothing says which method and base they belong to."""
    state = trained.state_dict()
    del state[next(key for key in state if key.endswith(INFO_KEY))]
    message = refused(ValueError, build(kind, base), state)
    assert 'adapters without the record' in message
