import pytest
import torch
from safetensors.torch import save_file

from mmflora.checkpoint import check_source, read_state_dict
from mmflora.files.sources import is_local

STATE = {'a.weight': torch.ones(200, 30), 'a.bias': torch.zeros(200)}


@pytest.mark.parametrize(
    ('source', 'local'),
    [
        ('base.pth', True),
        ('weights/base.pth', True),
        ('/data/base.pth', True),
        ('~/base.pth', True),
        ('../base.safetensors', True),
        ('https://host/base.pth', False),
        ('timm://convnext_tiny.in12k', False),
        ('torchvision://resnet50', False),
        ('open-mmlab://resnet50', False),
        ('s3://bucket/base.pth', False),
        ('petrel:s3://bucket/base.pth', False),
    ],
)
def test_local_sources(source, local):
    assert is_local(source) is local


WRAPPINGS = {
    'bare': lambda state: state,
    'state_dict': lambda state: dict(state_dict=state, meta={}),
    'model': lambda state: dict(model=state, epoch=3),
    'several GPUs': lambda state: {f'module.{k}': v for k, v in state.items()},
    'other values beside': lambda state: dict(state, epoch=3, name='x'),
}


@pytest.mark.parametrize('wrap', WRAPPINGS.values(), ids=WRAPPINGS)
def test_wrappings(wrap, tmp_path):
    path = tmp_path / 'file.pth'
    torch.save(wrap(STATE), path)
    state = read_state_dict(str(path))
    assert set(state) == set(STATE)
    assert torch.equal(state['a.weight'], STATE['a.weight'])


@pytest.mark.parametrize('prefix', ['backbone', 'backbone.'])
def test_prefix_is_cut_off(prefix, tmp_path):
    path = tmp_path / 'file.pth'
    others = {'neck.bias': torch.ones(1), 'backbone_ema.x': torch.ones(1)}
    torch.save({f'backbone.{k}': v for k, v in STATE.items()} | others, path)
    assert set(read_state_dict(str(path), prefix)) == set(STATE)


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(STATE, tmp_path / 'file.pth')
    save_file(STATE, tmp_path / 'file.safetensors')
    assert set(read_state_dict('~/file.pth')) == set(STATE)
    assert set(read_state_dict('~/file.safetensors')) == set(STATE)


def cut(path, part=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


def truncated_zip(path):
    torch.save(STATE, path)
    cut(path)


def truncated_old_format(path):
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    cut(path)


def truncated_safetensors(path):
    save_file(STATE, path)
    cut(path)


def truncated_head_of_safetensors(path):
    save_file(STATE, path)
    cut(path, 0.0001)


DAMAGED = {
    'truncated': ('file.pth', truncated_zip),
    'truncated, old format': ('file.pth', truncated_old_format),
    'truncated safetensors': ('file.safetensors', truncated_safetensors),
    'truncated head': ('file.safetensors', truncated_head_of_safetensors),
    'empty': ('file.pth', lambda path: path.write_bytes(b'')),
    'empty safetensors': (
        'file.safetensors',
        lambda path: path.write_bytes(b''),
    ),
    'text': ('file.pth', lambda path: path.write_text('<html>404</html>')),
    'text safetensors': (
        'file.safetensors',
        lambda path: path.write_text('<html>not found</html>'),
    ),
    'list': ('file.pth', lambda path: torch.save([1, 2], path)),
    'tensor': ('file.pth', lambda path: torch.save(torch.ones(3), path)),
    'numbered': (
        'file.pth',
        lambda path: torch.save({0: torch.ones(3)}, path),
    ),
    'no tensors': ('file.pth', lambda path: torch.save(dict(a=1), path)),
}


@pytest.mark.parametrize(('name', 'damage'), DAMAGED.values(), ids=DAMAGED)
def test_damaged_file_is_named(name, damage, tmp_path):
    path = tmp_path / name
    damage(path)
    with pytest.raises(ValueError, match='file') as caught:
        read_state_dict(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize('name', ['file.pth', 'file.safetensors'])
def test_missing_file(name, tmp_path):
    path = tmp_path / name
    for read in (check_source, read_state_dict):
        with pytest.raises(FileNotFoundError) as caught:
            read(str(path))
        assert str(path) in str(caught.value)


def test_folder_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        check_source(str(tmp_path))


def test_relative_path_is_shown_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        check_source('base.pth')
    assert str(tmp_path / 'base.pth') in str(caught.value)


def test_remote_sources_are_not_looked_up():
    check_source('https://host.invalid/base.pth')


def test_unknown_tag_lists_near_tags():
    with pytest.raises(ValueError, match='convnextv2_atto.fcmae') as caught:
        read_state_dict('timm://convnextv2_atto.fcmea')
    assert "'convnextv2_atto.fcmea'" in str(caught.value)
