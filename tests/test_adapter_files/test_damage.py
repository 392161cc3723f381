"""Whatever is damaged in a file, the error is one that names the file.

Each kind of file is changed in many ways: bytes flipped, ends cut off, values
of a description exchanged by those of other types.  Reading it either
succeeds or ends in an error for users; never in a traceback out of the
reader's own code.
"""

import copy
import json
import random

import pytest
import torch
from safetensors.torch import save_file
from test_engine.toy import ToyModel, backbone_cfg

from mmflora.adapter_files import (
    apply_adapter,
    from_checkpoint,
    read_adapter,
    to_checkpoint,
    write_adapter,
)
from mmflora.adapter_files.compare import compare_adapters, difference_table
from mmflora.adapter_files.describe import describe_adapter, list_adapters
from mmflora.checkpoint import read_state_dict
from mmflora.extract.peft_lora import load_peft_lora, write_peft_lora
from mmflora.files.stored_tensors import open_weights
from mmflora.tasks import combine_adapters

from .conftest import rewrite, tensors_of

FAST = 40
MANY = 400
OTHERS = (
    *(None, True, -1, 0, 3, 1e300, float('nan'), '', 'text', '\0', 'a/../b'),
    *([], [1, 'a'], [None], {}, {'a': {'b': []}}, {'type': 'FLoRA'}, [[[]]]),
)
ALLOWED = (ValueError, TypeError, FileNotFoundError)


def places(node, path=()):
    """Return the ways to all values in a description."""
    found = [path]
    items = node.items() if isinstance(node, dict) else ()
    items = enumerate(node) if isinstance(node, list) else items
    for key, value in items:
        found += places(value, (*path, key))
    return found


def retyped(config, draw):
    """Return a description with one value, or key, exchanged or gone."""
    config = copy.deepcopy(config)
    path = draw.choice(places(config)[1:])
    node = config
    for key in path[:-1]:
        node = node[key]
    kind = draw.random()
    if kind < 0.2:
        del node[path[-1]]
    elif kind < 0.25 and isinstance(node, dict):
        node['other'] = node.pop(path[-1])
    else:
        node[path[-1]] = copy.deepcopy(draw.choice(OTHERS))
    return config


def damaged(content, draw):
    """Return bytes with some flipped, cut off, or put in."""
    content = bytearray(content)
    kind = draw.random()
    if kind < 0.25:
        return bytes(content[: draw.randrange(len(content))])
    # Heads and ends say what all the rest means.
    near = draw.choice((len(content), min(400, len(content))))
    for _ in range(draw.choice((1, 1, 3))):
        at = draw.randrange(near)
        at = at if draw.random() < 0.5 else len(content) - 1 - at
        content[at] = draw.randrange(256)
    if kind > 0.9:
        at = draw.randrange(len(content))
        content[at:at] = bytes(draw.randrange(1, 9))
    return bytes(content)


def use(path, build):
    """Do with an adapter what users do with it."""
    read = read_adapter if path.suffix != '.pth' else from_checkpoint
    adapter = read(path)
    describe_adapter(adapter, layers=True)
    adapter.backbone(next(iter(adapter.config['backbones']), None))
    to_checkpoint(adapter)
    apply_adapter(build(), adapter)
    difference_table(compare_adapters(adapter, adapter))
    combine_adapters([adapter, adapter], [0.5, 0.5])


def check(act, path, cause):
    """Let an act succeed, or fail with an error that names the file."""
    try:
        act()
    except ALLOWED as error:
        text = str(error)
        assert path.stem in text, (cause, text)
    except Exception as error:
        raise AssertionError(
            f'{type(error).__name__} out of {path.name} ({cause}): {error}'
        ) from error


SWEEPS = [
    pytest.param(FAST, 0, id='some'),
    pytest.param(MANY, 1, id='many', marks=pytest.mark.slow),
]


@pytest.mark.parametrize(('count', 'seed'), SWEEPS)
@pytest.mark.parametrize('form', ['folder', 'file'])
def test_descriptions(adapter, build, tmp_path, form, count, seed):
    """Without a hash of it all, as the first versions wrote them."""
    name = 'damaged' if form == 'folder' else 'damaged.safetensors'
    path = write_adapter(adapter, tmp_path / name)
    rewrite(path, lambda config, tensors: None)
    file, metadata, tensors = tensors_of(path)
    whole = json.loads(metadata['mmflora'])
    draw = random.Random(seed)
    for _ in range(count):
        config = retyped(whole, draw)
        text = json.dumps(config)
        if form == 'folder':
            (path / 'adapter_config.json').write_text(text)
            save_file(tensors, file)
        else:
            save_file(tensors, file, {'mmflora': text})
        check(lambda: use(path, build), path, text)


@pytest.mark.parametrize(('count', 'seed'), SWEEPS)
@pytest.mark.parametrize('form', ['file', 'config', 'checkpoint', 'base'])
def test_bytes(run, adapter, build, tmp_path, form, count, seed):
    path = tmp_path / 'damaged.safetensors'
    if form == 'file':
        whole = write_adapter(adapter, path).read_bytes()
    elif form == 'config':
        folder = write_adapter(adapter, tmp_path / 'damaged')
        rewrite(folder, lambda config, tensors: None)
        file, _, tensors = tensors_of(folder)
        save_file(tensors, file)
        path = folder / 'adapter_config.json'
        whole = path.read_bytes()
    else:
        source = 'run/epoch_1.pth' if form == 'checkpoint' else 'base.pth'
        path = tmp_path / 'damaged.pth'
        whole = (run / source).read_bytes()
    draw = random.Random(seed)
    for _ in range(count):
        path.write_bytes(damaged(whole, draw))
        if form == 'base':
            check(lambda: read_state_dict(str(path)), path, form)
            check(lambda: open_weights(str(path)), path, form)
        elif form == 'config':
            check(lambda: use(folder, build), folder, form)
        else:
            check(lambda: use(path, build), path, form)
    list_adapters([tmp_path])


@pytest.mark.parametrize(('count', 'seed'), SWEEPS)
def test_values_in_a_checkpoint(checkpoint, build, tmp_path, count, seed):
    """The archive is whole; what is in it is not what it should be."""
    whole = torch.load(checkpoint, weights_only=True)
    path = tmp_path / 'damaged.pth'
    draw = random.Random(seed)
    for _ in range(count):
        changed = retyped(whole, draw)
        torch.save(changed, path)
        check(lambda: use(path, build), path, 'a value')


@pytest.mark.parametrize(
    'meta',
    [
        dict(mmflora='text'),
        dict(mmflora=dict(backbones='text', toolkit=[], version={})),
        dict(mmflora=dict(backbones=dict(backbone=3))),
        dict(mmflora=dict(backbones=dict(backbone=dict(tuned=3)))),
        dict(dataset_meta='text', cfg=3, epoch='one'),
    ],
    ids=str,
)
def test_meta_of_other_types(checkpoint, build, tmp_path, meta):
    content = torch.load(checkpoint, weights_only=True)
    content['meta'].update(meta)
    path = tmp_path / 'damaged.pth'
    torch.save(content, path)
    check(lambda: use(path, build), path, meta)


@pytest.mark.parametrize(('count', 'seed'), SWEEPS)
def test_indices_of_shards(tmp_path, count, seed):
    folder = tmp_path / 'damaged'
    folder.mkdir()
    weights = {'a': torch.ones(2), 'b': torch.ones(3)}
    for key, value in weights.items():
        save_file({key: value}, folder / f'{key}.safetensors')
    whole = dict(
        metadata={'total_size': 20},
        weight_map={key: f'{key}.safetensors' for key in weights},
    )
    path = folder / 'model.safetensors.index.json'
    draw = random.Random(seed)
    for _ in range(count):
        if draw.random() < 0.5:
            path.write_text(json.dumps(retyped(whole, draw)))
        else:
            path.write_bytes(damaged(json.dumps(whole).encode(), draw))
        for read in (read_state_dict, open_weights):
            check(lambda: read(str(folder)), folder, path.read_bytes())  # noqa: B023


@pytest.mark.parametrize(('count', 'seed'), SWEEPS)
def test_folders_of_peft(run, tmp_path, count, seed):
    config = backbone_cfg(run / 'base.pth')
    config.update(adapter=dict(type='HFPEFT', peft_type='LORA', r=2))
    backbone = ToyModel(config).backbone
    folder = write_peft_lora(backbone, tmp_path / 'damaged')
    described = folder / 'adapter_config.json'
    tensors = folder / 'adapter_model.safetensors'
    texts = described.read_text(), tensors.read_bytes()
    draw = random.Random(seed)
    for _ in range(count):
        described.write_text(texts[0])
        tensors.write_bytes(texts[1])
        if draw.random() < 0.6:
            changed = json.dumps(retyped(json.loads(texts[0]), draw))
            described.write_text(changed)
        else:
            path = draw.choice((described, tensors))
            path.write_bytes(damaged(path.read_bytes(), draw))
        check(
            lambda: load_peft_lora(backbone, folder),
            folder,
            described.read_bytes(),
        )
