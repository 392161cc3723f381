"""Tensors read one by one from files, without holding the files."""

import pytest
import torch
from safetensors.torch import save_file

from mmflora.files import stored_tensors
from mmflora.files.stored_tensors import StoredTensor, open_weights

TENSORS = {
    'matrix': torch.randn(37, 11),
    'kernel': torch.randn(5, 3, 2, 2),
    'vector': torch.randn(9),
    'scalar': torch.tensor(2.5),
    'empty': torch.zeros(0, 4),
    'half': torch.randn(6, 7).bfloat16(),
    'double': torch.randn(4, 3).double(),
    'integers': torch.arange(5),
}


@pytest.fixture(params=['pth', 'pth, wrapped', 'safetensors'])
def path(request, tmp_path):
    path = tmp_path / f'base.{request.param.split(",")[0]}'
    if request.param == 'safetensors':
        save_file(TENSORS, path, metadata=dict(format='pt'))
    elif request.param == 'pth':
        torch.save(TENSORS, path)
    else:
        torch.save(dict(epoch=2, state_dict=TENSORS), path)
    return path


def test_every_tensor_is_read(path):
    table = open_weights(str(path))
    assert table.keys() == TENSORS.keys()
    for key, value in TENSORS.items():
        assert isinstance(table[key], StoredTensor)
        assert torch.equal(table[key].read(), value), key
        assert table[key].dtype == value.dtype


@pytest.mark.parametrize('chunk', [1, 100, 1 << 20])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_every_tensor_is_read_into_another(path, chunk, dtype, monkeypatch):
    monkeypatch.setattr(stored_tensors, 'CHUNK', chunk)
    table = open_weights(str(path))
    for key, value in TENSORS.items():
        target = torch.full(value.shape, 7.0, dtype=dtype)
        table[key].read_into(target)
        assert torch.equal(target, value.to(dtype)), key


def test_views_are_filled_and_nothing_beside_them(path):
    table = open_weights(str(path))
    rows = torch.zeros(3 * 37, 11)
    table['matrix'].read_into(rows.chunk(3)[1])
    assert torch.equal(rows[37:74], TENSORS['matrix'])
    assert not rows[:37].any()
    assert not rows[74:].any()
    columns = torch.zeros(11, 37)
    table['matrix'].read_into(columns.T)
    assert torch.equal(columns.T, TENSORS['matrix'])


def test_parameters_are_filled(path):
    parameter = torch.nn.Parameter(torch.zeros(37, 11))
    open_weights(str(path))['matrix'].read_into(parameter)
    assert torch.equal(parameter.detach(), TENSORS['matrix'])
    assert parameter.grad_fn is None


def test_tensors_that_share_a_storage(tmp_path):
    whole = torch.randn(8, 4)
    torch.save(dict(a=whole[:3], b=whole[3:]), tmp_path / 'base.pth')
    table = open_weights(str(tmp_path / 'base.pth'))
    assert torch.equal(table['a'].read(), whole[:3])
    assert torch.equal(table['b'].read(), whole[3:])


@pytest.mark.parametrize('content', ['transposed', 'object', 'old'])
def test_what_cannot_be_read_one_by_one_is_left_to_others(content, tmp_path):
    path = tmp_path / 'base.pth'
    if content == 'transposed':
        torch.save(dict(a=torch.randn(3, 4).T), path)
    elif content == 'object':
        torch.save(dict(a=torch.randn(3), b=StoredTensor), path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    assert open_weights(str(path)) is None


def test_another_shape_is_refused(path):
    with pytest.raises(ValueError, match=r'\(37, 11\)'):
        open_weights(str(path))['matrix'].read_into(torch.zeros(11, 37))


def test_a_file_that_ends_early_is_noticed(path):
    table = open_weights(str(path))
    with open(path, 'r+b') as file:
        file.truncate(table['matrix'].offset + 100)
    with pytest.raises(ValueError, match='truncated'):
        table['matrix'].read()


def test_quantized_weights_are_refused(tmp_path):
    path = tmp_path / 'base.safetensors'
    save_file({'a': torch.zeros(2, 2).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(ValueError, match='F8_E4M3'):
        open_weights(str(path))


def test_folder_without_weights(tmp_path):
    (tmp_path / 'readme.md').write_text('nothing')
    with pytest.raises(FileNotFoundError, match=r'readme\.md'):
        open_weights(str(tmp_path))


def test_index_that_is_none(tmp_path):
    path = tmp_path / 'model.safetensors.index.json'
    path.write_text('{"keys": []}')
    with pytest.raises(ValueError, match='weight_map'):
        open_weights(str(path))
