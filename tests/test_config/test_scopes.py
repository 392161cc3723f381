from pathlib import Path

import pytest
from mmengine.config import Config

import mmflora  # noqa: F401  registers the scopes
from mmflora.config import scopes as config_scopes


@pytest.mark.parametrize(
    ('found', 'kept'), [('mmflora', None), ('mmdet', 'mmdet'), (None, None)]
)
def test_bases_of_mmflora_have_no_scope(monkeypatch, found, kept):
    """Else a toolkit's `EncoderDecoder` would be looked for in mmflora."""
    monkeypatch.setattr(
        config_scopes, '_get_cfg_path', lambda *_: ('base.py', found)
    )
    path, scope = Config._get_cfg_path(f'{found}::a/b.py', 'config.py')
    assert (path, scope) == ('base.py', kept)


BASES = (
    'mmdet::_base_/default_runtime.py',
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    'mmseg::_base_/models/upernet_r50.py',
    'mmrotate::oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota.py',
    'mmflora::_base_/peft_runtime.py',
)


@pytest.mark.parametrize('base', BASES)
def test_bases_are_where_mmengine_finds_them(base):
    theirs, scope = config_scopes._get_cfg_path(base, 'config.py')
    path, ours = Config._get_cfg_path(base, 'config.py')
    assert Path(path).samefile(theirs)
    assert ours == (None if scope == 'mmflora' else scope)


@pytest.mark.parametrize('base', BASES)
def test_no_metafile_is_read(base, tmp_path, monkeypatch):
    def refuse(path):
        raise AssertionError(f'{path} was read')

    monkeypatch.setattr('mmengine.config.utils.load', refuse)
    config = tmp_path / 'mine.py'
    config.write_text(f'_base_ = {base!r}\n')
    assert Config.fromfile(config)


def test_a_base_that_is_missing_is_an_error_of_mmengine():
    with pytest.raises(FileNotFoundError, match='nix.py'):
        Config._get_cfg_path('mmdet::_base_/nix.py', 'config.py')


def test_registering_twice_changes_nothing():
    before = Config._get_cfg_path
    config_scopes.register_config_scopes()
    assert Config._get_cfg_path is before
