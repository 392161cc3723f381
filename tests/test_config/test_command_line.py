"""What --cfg-options says reaches the config whole, or is an error."""

import argparse
import shlex

import pytest
from mmengine.config import Config

from mmflora.config.build import read_config
from mmflora.config.command_line import ConfigOptions, check_device, option

READ = {
    '/a b/c.pth': '/a b/c.pth',
    '"/a b, c/d.pth"': '/a b, c/d.pth',
    'Some words': 'Some words',
    'x': 'x',
    '1e-4': 1e-4,
    'None': None,
    'x,y': ['x', 'y'],
    'x, y': ['x', 'y'],
    '[(1, x),z]': [(1, 'x'), 'z'],
    '"[1,2]"': [1, 2],
    '(1, 2)': (1, 2),
    'a=b c': 'a=b c',
    '': '',
}


def read(words):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    return parser.parse_args(words).cfg_options


@pytest.mark.parametrize(('text', 'value'), READ.items())
def test_values(text, value):
    assert read(['--cfg-options', f'a.b={text}']) == {'a.b': value}


@pytest.mark.parametrize('path', ['x.pth', '/a b/c.pth', "/it's, so/d.pth"])
def test_what_is_printed_can_be_pasted(path):
    words = shlex.split(option('load_from', path))
    assert read(words) == {'load_from': path}


@pytest.mark.parametrize(
    ('word', 'message'),
    [
        ('lean', "'lean' is no KEY=VALUE, such as model.backbone.lean=True"),
        ('=5', "'=5' is no KEY=VALUE"),
        ('configs/my.py', 'such as the config, go before --cfg-options'),
        ('mmdet::dino/dino.py', 'such as the config, go before --cfg-options'),
        ('a=[(1,2]', "'a=[(1,2]': its brackets do not match"),
    ],
)
def test_a_word_that_is_no_setting(word, message, capsys):
    with pytest.raises(SystemExit) as caught:
        read(['--cfg-options', 'a.b=1', word])
    assert caught.value.code == 2
    assert message in ' '.join(capsys.readouterr().err.split())


CONFIG = dict(
    model=dict(depth=5, init_cfg=None),
    param_scheduler=[dict(end=1), dict(end=2, milestones=[8, 11])],
)


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        (
            'param_scheduler.end',
            'param_scheduler is a list of 2, so an index comes before '
            "'end': param_scheduler.0.end=7",
        ),
        ('param_scheduler.end.x', "an index comes before 'end.x'"),
        ('param_scheduler.9.end', 'there is no 9; the last one is 1'),
        ('param_scheduler.1.milestones.0', r'param_scheduler\.1\.milestones='),
        ('model.depth.x', r'model.depth is 5 \(int\), no dict'),
        ('model.init_cfg.type', r'model.init_cfg is None'),
    ],
)
def test_a_key_that_leads_nowhere(key, message):
    with pytest.raises(
        ValueError, match=f'--cfg-options {key}=7: .*{message}'
    ):
        read_config(Config(CONFIG), {'model.lean': True, key: 7})


def test_settings_that_exclude_each_other():
    with pytest.raises(ValueError, match='x=1 x.y=2'):
        read_config(Config(CONFIG), {'x': 1, 'x.y': 2})


def test_keys_that_reach_into_lists():
    changes = {'param_scheduler.1.end': 7, 'param_scheduler.0.by.epoch': 1}
    cfg = read_config(Config(CONFIG), changes)
    first, second = cfg.param_scheduler
    assert (first.by.epoch, second.end) == (1, 7)


@pytest.mark.parametrize('device', ['cud', 'cuda:99', 'meta', ''])
def test_a_device_that_cannot_compute(device):
    check_device('cpu', '--device')
    message = f"^--device: '{device}' cannot be used here .*There is cpu"
    with pytest.raises(ValueError, match=message):
        check_device(device, '--device')
