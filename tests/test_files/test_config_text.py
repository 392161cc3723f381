"""Configs out of checkpoints are read as data; nothing of them runs."""

import pickle
import re
import sys

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.fileio import dump, load
from mmengine.infer import BaseInferencer
from mmengine.structures import InstanceData

from mmflora.checkpoint import trusted_checkpoints
from mmflora.files.pickles import read_safely

SETTINGS = dict(
    default_scope='mmdet',
    custom_imports=dict(imports=['mmflora'], allow_failed_imports=False),
    model=dict(
        type='MaskRCNN',
        backbone=dict(type='mmflora.PEFTConvNeXt', depths=(3, -3)),
        act=dict(type='torch.nn.modules.activation.GELU'),
        nms=dict(type='nms', iou_threshold=0.5, most=float('inf')),
        names=["it's", 'a "b"', None, True],
    ),
    optim_wrapper=dict(paramwise_cfg=dict(custom_keys={'a.b': dict(m=0.1)})),
)
MARK = 'it_ran'
CODE = {
    'call': "__import__('os').mkdir({mark!r})",
    'value': "a = __import__('os').mkdir({mark!r})",
    'nested': "a = dict(b=[1, dict(c=open({mark!r}, 'w'))])",
    'import': 'import os\nos.mkdir({mark!r})',
    'comprehension': 'a = [open({mark!r}, "w") for _ in range(1)]',
    'format': 'a = f"{{open({mark!r}, chr(119))}}"',
    'shadow': "dict = __import__('os').mkdir\na = dict({mark!r})",
    'default': "def f(a=open({mark!r}, 'w')): pass",
    'base': "_base_ = '{mark}.py'",
    'imports': "custom_imports = dict(imports=['evil_module'])",
    'type': "model = dict(type='os.mkdir', path={mark!r})",
    'type in a package': "model = dict(type='mmengine.load', file='a.pkl')",
    'builder': "model = dict(type='mmdet.apis.DetInferencer', model='a.py')",
    'evaluated': 'nms = dict(type="open({mark!r}, chr(119))")',
    'also evaluated': 'a = dict(warp_mode="open({mark!r}, chr(119))")',
    'module': "model = dict(type='evil_module')",
    'scope': "model = dict(type='BaseModel', _scope_='evil_package')",
    'default scope': "default_scope = 'evil_package'",
}


def checkpoint(folder, text, place='meta'):
    """Write a checkpoint that holds nothing but values, and a config."""
    path = folder / 'epoch_1.pth'
    hub = {'runtime_info': {'cfg': text}} if place == 'hub' else {}
    meta = {'cfg': text} if place == 'meta' else {}
    torch.save(dict(meta=meta, message_hub=hub, state_dict={}), path)
    return path


def infer(path):
    """Let MMEngine take the config out of a checkpoint and build a model."""
    inferencer = object.__new__(Inferencer)
    return inferencer._init_model(Config(), str(path))


class Inferencer(BaseInferencer):
    preprocess_kwargs = forward_kwargs = set()
    visualize_kwargs = postprocess_kwargs = set()

    def _init_pipeline(self, cfg):
        """Have none."""

    def visualize(self):
        """Draw nothing."""

    def postprocess(self):
        """Return nothing."""


def test_what_the_runner_writes_is_read():
    text = Config(SETTINGS).pretty_text
    assert Config.fromstring(text, '.py')._cfg_dict == SETTINGS
    assert Config.fromstring(text, '.py').pretty_text == text


@pytest.mark.parametrize('place', ['meta', 'hub'])
@pytest.mark.parametrize('code', CODE.values(), ids=CODE)
def test_nothing_of_a_config_runs(tmp_path, monkeypatch, code, place):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    mark = tmp_path / MARK
    (tmp_path / 'evil_package').mkdir()
    for name in (f'{MARK}.py', 'evil_module.py', 'evil_package/registry.py'):
        (tmp_path / name).write_text(f'import os\nos.mkdir({str(mark)!r})')
    text = 'seed = 0\n' + code.format(mark=str(mark))
    path = checkpoint(tmp_path, text, place)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        infer(path)
    assert '--trust-checkpoints' in str(caught.value)
    assert not mark.exists()
    assert 'evil_module' not in sys.modules


def test_the_line_is_named_and_trust_runs_it(tmp_path):
    mark = tmp_path / MARK
    text = f"model = {{}}\n\na = __import__('os').mkdir({str(mark)!r})\n"
    read_safely(checkpoint(tmp_path, text))
    with pytest.raises(ValueError, match='line 3, holds code: a = __import'):
        Config.fromstring(text, '.py')
    with pytest.raises(ValueError, match='SyntaxError'):
        Config.fromstring('a = = 1', '.py')
    with trusted_checkpoints():
        assert Config.fromstring(text, '.py').model == {}
    assert mark.is_dir()


def test_a_config_in_a_checkpoint_builds_its_model(tmp_path):
    text = Config(dict(model=dict(type='BaseDataPreprocessor'))).pretty_text
    model = infer(checkpoint(tmp_path, text))
    assert type(model).__name__ == 'BaseDataPreprocessor'


def test_pickles_of_values_are_read(tmp_path):
    values = [
        dict(a=1, b='text', c=(1.5, None), d={1, 2}, e=b'bytes', f=1j),
        dict(array=np.arange(6.0).reshape(2, 3), one=np.float32(2)),
        dict(boxes=torch.arange(4.0), found=InstanceData(a=torch.ones(2))),
    ]
    for protocol in (2, 5):
        path = tmp_path / f'{protocol}.pkl'
        dump(values, path, protocol=protocol)
        read = load(path)
        assert read[0] == values[0]
        assert np.array_equal(read[1]['array'], values[1]['array'])
        assert torch.equal(read[2]['boxes'], values[2]['boxes'])
        assert torch.equal(read[2]['found'].a, torch.ones(2))


class Runs:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def test_pickles_and_yaml_run_nothing(tmp_path):
    mark = str(tmp_path / MARK)
    path = tmp_path / 'annotations.pkl'
    inner = pickle.dumps(Runs(open, mark, 'w'))
    for evil in (Runs(open, mark, 'w'), Runs(pickle.loads, inner)):
        path.write_bytes(pickle.dumps(evil))
        with pytest.raises(ValueError, match='could run code'):
            load(path)
    (tmp_path / 'a.yaml').write_text(
        f'a: !!python/object/apply:os.mkdir [{mark}]'
    )
    with pytest.raises(Exception, match='could not determine a constructor'):
        load(tmp_path / 'a.yaml')
    path.write_bytes(b'\x80\x04garbage')
    with pytest.raises(ValueError, match='damaged|code'):
        load(path)
    assert not (tmp_path / MARK).exists()
    path.write_bytes(pickle.dumps(Runs(open, mark, 'w').call[1:]))
    with trusted_checkpoints():
        assert load(path) == (mark, 'w')
