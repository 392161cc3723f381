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


def test_registering_twice_changes_nothing():
    before = Config._get_cfg_path
    config_scopes.register_config_scopes()
    assert Config._get_cfg_path is before
