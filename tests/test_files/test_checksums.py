"""Damage in a file is noticed, wherever its content is."""

import random
import zipfile

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save_file

from mmflora.checkpoint import read_state_dict
from mmflora.files import checksums
from mmflora.files.checksums import check_archive, check_finite, is_finite
from mmflora.files.pickles import read_safely
from mmflora.files.stored_tensors import open_weights
from mmflora.files.tensor_files import read_tensors, write_tensors
from mmflora.files.training_checkpoints import load_checkpoint

READERS = {
    'check': lambda path: read_safely(path, 'meta'),
    'read': read_safely,
    'map': lambda path: read_safely(path, mmap=True),
    'weights': lambda path: read_state_dict(str(path)),
    'table': lambda path: open_weights(str(path)) or read_safely(path),
    'training': load_checkpoint,
    'mmengine': lambda path: CheckpointLoader.load_checkpoint(str(path)),
    'object store': lambda path: read_safely('x', content=path.open('rb')),
}


@pytest.fixture
def path(tmp_path):
    state = {f'a{i}': torch.randn(20, 9) for i in range(4)}
    torch.save(dict(meta=dict(a=1), state_dict=state), tmp_path / 'a.pth')
    return tmp_path / 'a.pth'


@pytest.mark.parametrize('read', READERS.values(), ids=READERS)
def test_a_flipped_byte_in_a_record_is_refused(path, read):
    read(path)
    content = path.read_bytes()
    draw = random.Random(0)
    with zipfile.ZipFile(path) as archive:
        records = [r for r in archive.infolist() if r.file_size]
    for record in records:
        header = content[record.header_offset :]
        name, extra = header[26] + 256 * header[27], header[28:30]
        start = record.header_offset + 30 + name
        start += int.from_bytes(extra, 'little')
        flipped = bytearray(content)
        place = start + draw.randrange(record.file_size)
        flipped[place] ^= draw.randint(1, 255)
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"damaged|'x'"):
            read(path)


def test_files_without_checksums_are_read(tmp_path):
    state = dict(a=torch.ones(3))
    torch.save(state, tmp_path / 'old', _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / 'none')
    finally:
        torch.serialization.set_crc32_options(True)
    for name in ('old', 'none'):
        assert torch.equal(read_safely(tmp_path / name)['a'], state['a'])


def test_a_large_file_is_compared_once_until_it_changes(path, monkeypatch):
    monkeypatch.setattr(checksums, '_LARGE', 1)
    opened = []
    real = zipfile.ZipFile

    def count(*args):
        opened.append(args)
        return real(*args)

    monkeypatch.setattr(zipfile, 'ZipFile', count)
    check_archive(str(path), 'a')
    check_archive(str(path), 'a')
    assert len(opened) == 1
    path.write_bytes(path.read_bytes() + b'')
    torch.save(dict(a=torch.ones(1)), path)
    check_archive(str(path), 'a')
    assert len(opened) == 2


def test_written_tensors_carry_a_hash_of_all(tmp_path):
    path = tmp_path / 'a.safetensors'
    tensors = dict(a=torch.randn(5, 3), b=torch.arange(4))
    write_tensors(path, tensors, dict(text='some words'))
    metadata, read = read_tensors(path)
    assert metadata['text'] == 'some words'
    assert torch.equal(read['a'], tensors['a'])
    content = path.read_bytes()
    start = content.index(b'"mmflora_sha256"')
    for at in range(8, len(content), 5):
        # Blanks fill the head up; the hash's own name says nothing.
        if content[at] == 32 or start <= at < start + 16:
            continue
        path.write_bytes(
            content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        )
        with pytest.raises(ValueError, match=r'a\.safetensors'):
            read_tensors(path)
    save_file(tensors, path)  # as others write it
    assert torch.equal(read_tensors(path)[1]['b'], tensors['b'])


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_values_that_are_no_numbers(tmp_path, bad, dtype):
    tensor = torch.ones(7, 5, dtype=getattr(torch, dtype))
    largest = torch.full((9,), torch.finfo(tensor.dtype).max)
    assert is_finite(largest.to(tensor.dtype)), 'whose sum is none'
    tensor[3, 2] = bad
    with pytest.raises(ValueError, match=r"1 of the 35 values of 'b\.w'"):
        check_finite({'a': largest, 'b.w': tensor, 'c': tensor}, 'here')
    with pytest.raises(ValueError, match='not written'):
        write_tensors(tmp_path / 'a.safetensors', {'b.w': tensor}, {})
    assert not list(tmp_path.iterdir())
