"""MMEngine's own loading reads adapters, and nothing that could run."""

from urllib.error import URLError

import pytest
import torch
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save_file
from test_engine.toy import Logits, backbone_cfg, runner

from mmflora.adapter_files import is_adapter, write_adapter, write_checkpoint
from mmflora.checkpoint import trusted_checkpoints

from .test_refusals import Malicious

EVIL_MARK = 'executed'


def write_evil(path, folder):
    """Write a checkpoint that makes a folder when it is unpickled."""
    state = {'a': Malicious(folder / EVIL_MARK)}
    torch.save(dict(meta={}, state_dict=state), path)


def test_an_adapter_is_known(written, checkpoint, tmp_path):
    assert is_adapter(written)
    assert not is_adapter(checkpoint)
    assert not is_adapter(tmp_path / 'none.safetensors')
    weights = tmp_path / 'weights.safetensors'
    save_file({'a': torch.ones(1)}, weights)
    assert not is_adapter(weights)
    loaded = CheckpointLoader.load_checkpoint(str(weights))
    assert torch.equal(loaded['a'], torch.ones(1))


@torch.no_grad()
def test_load_checkpoint_takes_an_adapter(written, checkpoint, build):
    images = torch.randn(2, 3, 32, 32)
    ours, theirs = build().eval(), build().eval()
    loaded = load_checkpoint(ours, str(written), map_location='cpu')
    load_checkpoint(theirs, str(checkpoint), map_location='cpu')
    assert torch.equal(ours(images), theirs(images))
    assert loaded['meta']['dataset_meta']['classes'] == ('a', 'b', 'c')
    moved = CheckpointLoader.load_checkpoint(str(written), 'meta')
    assert moved['state_dict']['head.weight'].is_meta


def test_a_run_tests_and_starts_from_an_adapter(run, written, tmp_path):
    """As tools/test.py and load_from do it."""
    results = []
    for index, source in enumerate((run / 'run/epoch_1.pth', written)):
        testing = runner(
            tmp_path / f'test_{index}',
            backbone_cfg(run / 'base.pth'),
            test=True,
            load_from=str(source),
        )
        testing.test()
        results.append(Logits.last.clone())
    assert torch.equal(*results)
    training = runner(
        tmp_path / 'on',
        backbone_cfg(run / 'base.pth'),
        epochs=1,
        load_from=str(written),
    )
    training.load_or_resume()
    model = training.model
    start = torch.load(run / 'run/epoch_1.pth', weights_only=True)
    assert torch.equal(model.head.weight, start['state_dict']['head.weight'])
    training.train()


def test_a_strangers_checkpoint_never_runs(run, tmp_path):
    path = tmp_path / 'evil.pth'
    write_evil(path, tmp_path)
    with pytest.raises(ValueError, match='could run code'):
        CheckpointLoader.load_checkpoint(str(path))
    testing = runner(
        tmp_path / 'test',
        backbone_cfg(run / 'base.pth'),
        test=True,
        load_from=str(path),
    )
    with pytest.raises(ValueError, match='could run code'):
        testing.test()
    resumed = runner(
        tmp_path / 'on',
        backbone_cfg(run / 'base.pth'),
        load_from=str(path),
        resume=True,
    )
    with pytest.raises(ValueError, match='could run code'):
        resumed.train()
    backbone = backbone_cfg(path)
    with pytest.raises(ValueError, match='could run code'):
        runner(tmp_path / 'base', backbone)
    assert not (tmp_path / EVIL_MARK).exists()
    with trusted_checkpoints():
        CheckpointLoader.load_checkpoint(str(path))
    assert (tmp_path / EVIL_MARK).exists()


def test_a_file_from_the_web_is_read_the_same_way(
    adapter, tmp_path, monkeypatch
):
    """The server is a folder here."""
    served = tmp_path / 'served'
    served.mkdir()
    write_checkpoint(adapter, served / 'good.pth')
    write_adapter(adapter, served / 'good.safetensors')
    write_evil(served / 'evil.pth', tmp_path)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    asked = []

    def download(url, path):
        asked.append(url)
        name = url.rpartition('/')[2]
        with open(path, 'wb') as file:
            file.write((served / name).read_bytes())

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    for name in ('good.pth', 'good.safetensors', 'good.pth'):
        loaded = CheckpointLoader.load_checkpoint(f'https://host/x/{name}')
        assert 'head.weight' in loaded['state_dict']
    assert len(asked) == 2, 'what is there already is not asked for'
    with pytest.raises(ValueError, match='could run code'):
        CheckpointLoader.load_checkpoint('http://host/evil.pth')
    assert not (tmp_path / EVIL_MARK).exists()


def test_a_file_that_cannot_be_fetched_is_an_error_with_a_way_out(
    tmp_path, monkeypatch
):
    def fail(*_):
        raise URLError('no route to host')

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', fail)
    url = 'https://host/x/none.pth'
    with pytest.raises(ConnectionError, match='no route to host') as caught:
        CheckpointLoader.load_checkpoint(url)
    assert url in str(caught.value)
    assert str(tmp_path / 'hub') in str(caught.value)


def test_what_is_not_there_is_told(tmp_path):
    for name in ('none.pth', 'none.safetensors', 'folder'):
        with pytest.raises(FileNotFoundError, match=name):
            CheckpointLoader.load_checkpoint(str(tmp_path / name))
