"""Imports without the garbage collector."""

import gc

import pytest

from mmflora import collector
from mmflora.collector import keep_imports, paused_collector


def test_no_garbage_is_collected_inside():
    assert gc.isenabled()
    with paused_collector():
        assert not gc.isenabled()
        with paused_collector():
            pass
        assert not gc.isenabled(), 'the inner one has not paused it'
    assert gc.isenabled()


def test_an_error_inside_leaves_the_collector_on():
    with pytest.raises(ImportError), paused_collector():
        raise ImportError
    assert gc.isenabled()


def test_only_the_first_objects_of_a_process_are_kept(monkeypatch):
    calls = []
    monkeypatch.setattr(gc, 'freeze', lambda: calls.append('freeze'))
    monkeypatch.setattr(collector, '_kept', False)
    keep_imports()
    keep_imports()
    assert calls == ['freeze']
