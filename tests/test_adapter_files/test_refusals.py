"""What is refused, and that nothing of it is run or loaded."""

import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from test_engine.toy import write_base

from mmflora.adapter_files import (
    apply_adapter,
    from_checkpoint,
    read_adapter,
    write_adapter,
    write_checkpoint,
)
from mmflora.adapter_files.compare import compare_adapters

from .conftest import rewrite


def refused(path, error=ValueError):
    with pytest.raises(error) as caught:
        read_adapter(path)
    return str(caught.value)


class Malicious:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize('form', ['torch', 'old torch', 'pickle'])
@pytest.mark.parametrize('name', ['a.safetensors', 'a.pth', 'folder'])
def test_a_pickle_is_never_run(tmp_path, written, form, name):
    marker = tmp_path / 'executed'
    evil = dict(meta={}, state_dict={'a': Malicious(marker)})
    content = io.BytesIO()
    if form == 'pickle':
        pickle.dump(evil, content)
    else:
        torch.save(
            evil,
            content,
            _use_new_zipfile_serialization=form == 'torch',
        )
    if name == 'folder':
        path = written if written.is_dir() else written.parent
        if not written.is_dir():
            pytest.skip('the folder form is tested once')
        (path / 'adapter_model.safetensors').write_bytes(content.getvalue())
    else:
        path = tmp_path / name
        path.write_bytes(content.getvalue())
    assert 'is a pickle' in refused(path)
    file = tmp_path / 'checkpoint.pth'
    file.write_bytes(content.getvalue())
    with pytest.raises(ValueError, match='could run code|no PyTorch check'):
        from_checkpoint(file)
    assert not marker.exists()
    torch.load(file, weights_only=False) if form != 'pickle' else (
        pickle.loads(content.getvalue())
    )
    assert marker.exists(), 'the sample is not malicious'


def test_a_head_of_any_length_is_read(adapter, tmp_path):
    """The first byte is the lowest of the head's length, a pickle's too."""
    first = set()
    for length in range(0, 256, 8):
        adapter.config['metrics'] = {'a' * length: 1.0}
        path = write_adapter(adapter, tmp_path / 'adapter.safetensors')
        first.add(path.read_bytes()[0])
        assert read_adapter(path).config['metrics'] == {'a' * length: 1.0}
    assert 0x80 in first


def test_truncated_description(adapter, tmp_path):
    folder = write_adapter(adapter, tmp_path / 'adapter')
    text = folder / 'adapter_config.json'
    text.write_bytes(text.read_bytes()[:100])
    assert 'truncated, no JSON' in refused(folder)
    text.write_text('[' * 100_000)
    assert 'no JSON' in refused(folder)
    text.unlink()
    assert 'adapter_config.json' in refused(folder, FileNotFoundError)


def test_a_changed_description_does_not_count(adapter, tmp_path):
    folder = write_adapter(adapter, tmp_path / 'adapter')
    text = folder / 'adapter_config.json'
    changed = json.loads(text.read_text())
    changed['toolkit'] = 'mmseg'
    text.write_text(json.dumps(changed))
    assert read_adapter(folder).config['toolkit'] == 'mmengine'


@pytest.mark.parametrize(
    'name',
    ['../other.safetensors', '/etc/a.safetensors', 'a/b.safetensors']
    + ['..', '.hidden.safetensors', 'a.pth', 'a\\b.safetensors', 3, None],
)
def test_paths_as_file_names(written, name):
    outside = written.parent / 'other.safetensors'
    save_file({'a': torch.ones(1)}, outside)
    rewrite(written, lambda config, _: config['tensors'].update(file=name))
    assert 'not to be trusted' in refused(written)


@pytest.mark.parametrize(
    'name', ['../../a', 'a/b', 'a..b', '.a', 'a\\b', 'a\nb', 'c:a', '']
)
def test_paths_as_tensor_names(written, adapter, name, tmp_path):
    def add(_, tensors):
        return {**tensors, name: torch.ones(1)}

    rewrite(written, add)
    assert 'not to be trusted' in refused(written)
    adapter.tensors[name] = torch.ones(1)
    with pytest.raises(ValueError, match='not to be trusted'):
        write_adapter(adapter, tmp_path / 'other')
    assert not (tmp_path / 'other').exists()


def test_a_newer_schema_says_so(written):
    rewrite(written, lambda config, _: config.update(schema_version=2))
    assert 'Update mmflora' in refused(written)


@pytest.mark.parametrize(
    ('member', 'value'),
    [
        ('format', 'other'),
        ('schema_version', '1'),
        ('schema_version', True),
        ('schema_version', -1),
        ('backbones', None),
        ('backbones', dict(backbone=dict(method={}))),
        ('metrics', 'good'),
        ('tensors', dict()),
    ],
)
def test_descriptions_of_something_else(written, member, value):
    rewrite(written, lambda config, _: config.update({member: value}))
    assert str(written) in refused(written)


def test_adapters_of_peft_are_told_apart(tmp_path):
    folder = tmp_path / 'peft'
    folder.mkdir()
    (folder / 'adapter_config.json').write_text('{"peft_type": "LORA"}')
    save_file({'a': torch.ones(1)}, folder / 'adapter_model.safetensors')
    assert '--from peft' in refused(folder)


def test_other_safetensors_and_missing_files(tmp_path):
    save_file({'a': torch.ones(1)}, tmp_path / 'plain.safetensors')
    assert 'no description' in refused(tmp_path / 'plain.safetensors')
    message = refused(tmp_path / 'none.safetensors', FileNotFoundError)
    assert 'Adapter not found' in message


def test_names_of_other_kinds_are_not_written(adapter, tmp_path):
    with pytest.raises(ValueError, match='import` writes .pth'):
        write_adapter(adapter, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'ends in \.pth'):
        write_checkpoint(adapter, tmp_path / 'a.safetensors')


def untouched(model, adapter, message, error=ValueError):
    """Check that an adapter is refused and leaves the model as it was."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(error, match=message):
        apply_adapter(model, adapter)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(adapter=dict(type='FLoRA', rank=3)), 'of another shape'),
        (dict(exclude='stem.*'), 'unknown to the model'),
        (dict(adapter=dict(type='FLoRA', rank=4, scale=1.0)), 'scale'),
        (dict(adapter=None), 'unknown to the model'),
    ],
)
def test_models_of_other_settings(adapter, build, changes, message):
    if changes.get('adapter', 1) is None:
        changes = dict(type='mmflora.PEFTConvNeXt', **changes)
    untouched(build(**changes), adapter, message)


def test_other_heads(adapter, build):
    model = build()
    model.head = torch.nn.Linear(8, 5)
    untouched(model, adapter, 'head.weight')
    del adapter.tensors['neck.1.running_mean']
    untouched(build(), adapter, 'missing in the file: neck.1.running_mean')


def test_models_without_the_backbone(adapter, build):
    model = build()
    model.backbone = torch.nn.Identity()
    untouched(model, adapter, 'adapted backbone')


def test_another_base(adapter, build, tmp_path):
    other = write_base(tmp_path / 'other.pth', seed=1)
    untouched(build(base=other), adapter, 'was trained over the base')


def test_missing_base(adapter, build):
    base = adapter.backbone()['base']
    base['source'] = dict(base['source'], checkpoint='/nowhere/base.pth')
    untouched(build(base=None), adapter, 'MMFLORA_BASES', FileNotFoundError)
    apply_adapter(build(), adapter)  # the base is in place: it is enough


def test_checkpoints_without_an_adapter(run, tmp_path):
    torch.save([1], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='no `state_dict`'):
        from_checkpoint(tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='holds no adapter'):
        from_checkpoint(run / 'base.pth')
    with pytest.raises(FileNotFoundError):
        from_checkpoint(tmp_path / 'none.pth')
    damaged = tmp_path / 'damaged.pth'
    with zipfile.ZipFile(damaged, 'w') as archive:
        archive.writestr('archive/data.pkl', b'nothing')
    with pytest.raises(ValueError, match='truncated|could run'):
        from_checkpoint(damaged)


def test_a_method_in_a_file_names_no_module_to_import(
    written, tmp_path, monkeypatch
):
    """MMEngine's registries import what a name that they lack spells."""
    marker = tmp_path / 'executed'
    text = f'import os\nos.mkdir({str(marker)!r})\n'
    (tmp_path / 'evil_method.py').write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))

    def change(config, _):
        backbone = next(iter(config['backbones'].values()))
        backbone['method']['adapter'] = dict(type='evil_method.Method')

    rewrite(written, change)
    with pytest.raises(ValueError, match=r'Unknown adapter type'):
        compare_adapters(*[read_adapter(written)] * 2)
    assert not marker.exists()
