"""Values of --cfg-options reach the config whole, printed ones too."""

import argparse
import shlex

import pytest

from mmflora.config.command_line import ConfigOptions, option

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
