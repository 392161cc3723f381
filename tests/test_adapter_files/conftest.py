import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from test_engine.toy import ToyModel, backbone_cfg, runner, write_base

from mmflora.adapter_files import (
    AdapterFile,
    from_checkpoint,
    write_adapter,
)


@pytest.fixture(scope='session')
def run(tmp_path_factory):
    """A finished training: `base.pth` and `run/epoch_1.pth`."""
    folder = tmp_path_factory.mktemp('toy')
    base = write_base(folder / 'base.pth')
    built = runner(folder / 'run', backbone_cfg(base), epochs=1)
    built.train()
    return folder


@pytest.fixture
def checkpoint(run):
    return run / 'run/epoch_1.pth'


@pytest.fixture
def adapter(checkpoint):
    return from_checkpoint(checkpoint, metrics={'coco/bbox_mAP': 0.25})


@pytest.fixture(params=['folder', 'file'])
def written(request, adapter, tmp_path):
    name = 'adapter' if request.param == 'folder' else 'adapter.safetensors'
    return write_adapter(adapter, tmp_path / name)


@pytest.fixture
def build(run):
    """Build the toy model over the base, or another configuration."""

    def build(base=run / 'base.pth', **changes):
        config = backbone_cfg(base)
        config.update(changes)
        return ToyModel(config)

    return build


def tensors_of(path):
    """Return the file of tensors, its metadata and its tensors."""
    file = path / 'adapter_model.safetensors' if path.is_dir() else path
    with safe_open(str(file), framework='pt') as opened:
        tensors = {key: opened.get_tensor(key) for key in list(opened.keys())}
        return file, dict(opened.metadata()), tensors


def rewrite(path, change):
    """Change the description of a written adapter, wherever it stands.

    What is left is a file as they were before they held a hash of it all.
    """
    file, metadata, tensors = tensors_of(path)
    config = json.loads(metadata['mmflora'])
    tensors = change(config, tensors) or tensors
    metadata.pop('mmflora_sha256')
    metadata['mmflora'] = json.dumps(config)
    save_file(tensors, file, metadata)
    if path.is_dir():
        (path / 'adapter_config.json').write_text(json.dumps(config))


def same(first: AdapterFile, second: AdapterFile):
    """Return whether adapters are equal, except `tensors` in the config."""
    configs = [{**x.config, 'tensors': None} for x in (first, second)]
    return (
        configs[0] == configs[1]
        and first.tensors.keys() == second.tensors.keys()
        and all(
            torch.equal(value, second.tensors[key])
            for key, value in first.tensors.items()
        )
    )
