import copy
import logging

import pytest
import torch
from adapter_models import IMAGES, build, plain_state, prefixed, record_of
from convnext_files import V2, stock_net
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmflora.checkpoint import adapter_state_dict
from mmflora.checkpoint.state import INFO_KEY


def load_torch(model, state, _path):
    model.load_state_dict(state, strict=True)


def load_mmengine(model, state, _path):
    # It raises on a key that is missing or unexpected.
    mmengine_checkpoint.load_state_dict(model, state, strict=True)


def load_file(model, state, path):
    torch.save(dict(state_dict=state, meta={}), path)
    mmengine_checkpoint.load_checkpoint(model, str(path), strict=True)


LOADERS = dict(torch=load_torch, mmengine=load_mmengine, file=load_file)


@pytest.fixture(params=LOADERS.values(), ids=LOADERS)
def load(request, tmp_path):
    return lambda model, state: request.param(
        model, state, tmp_path / 'adapters.pth'
    )


def test_state_dict_holds_what_trains_and_every_buffer(trained, state):
    record = record_of(trained)
    prefix = 'backbone.' if hasattr(trained, 'backbone') else ''
    base = {prefix + key for key in record.base_keys}
    trains = {k for k, p in trained.named_parameters() if p.requires_grad}
    buffers = {k for k, _ in trained.named_buffers()}
    assert base
    assert set(state) == trains | buffers
    assert not set(state) & base
    assert prefix + INFO_KEY in buffers


def test_outside_the_context_nothing_is_left_out(trained, state):
    whole = trained.state_dict()
    assert set(whole) - set(state) == {
        ('backbone.' if hasattr(trained, 'backbone') else '') + key
        for key in record_of(trained).base_keys
    }


def test_context_ends_with_an_exception(trained):
    with pytest.raises(RuntimeError), adapter_state_dict():
        raise RuntimeError
    assert len(trained.state_dict()) > len(list(trained.parameters()))


def test_outputs_come_back_bit_for_bit(trained, state, kind, base, load):
    other = build(kind, base)
    assert not torch.equal(other(IMAGES), trained(IMAGES))
    load(other, state)
    assert torch.equal(other(IMAGES), trained(IMAGES))


def test_base_comes_with_the_adapters(trained, state, kind, load):
    other = build(kind)
    load(other, state)
    assert torch.equal(other(IMAGES), trained(IMAGES))
    record = record_of(other)
    assert record.source == record_of(trained).source
    assert record.sha256 == record_of(trained).sha256


def test_init_weights_keeps_a_base_that_came_with_the_adapters(
    trained, state, kind
):
    other = build(kind)
    other.load_state_dict(state)
    getattr(other, 'backbone', other).init_weights()
    assert torch.equal(other(IMAGES), trained(IMAGES))
    assert record_of(other).source == record_of(trained).source


def test_nothing_is_logged(trained, state, kind, base, tmp_path, caplog):
    path = tmp_path / 'adapters.pth'
    torch.save(dict(state_dict=state), path)
    logger = logging.getLogger('quiet')
    with caplog.at_level(logging.WARNING):
        mmengine_checkpoint.load_checkpoint(
            build(kind, base), str(path), logger=logger
        )
    assert caplog.text == ''


def test_base_in_place_is_known_by_its_content_alone(
    trained, state, kind, base, load
):
    """Neither the file's name nor its layout nor its presence counts."""
    moved = base.rename(base.with_name('moved.pth'))
    torch.save(stock_net(V2).state_dict(), moved)
    other = build(kind, moved)
    moved.unlink()
    load(other, state)
    assert torch.equal(other(IMAGES), trained(IMAGES))


def test_training_goes_on_from_loaded_adapters(state, kind, base):
    other = build(kind, base)
    other.load_state_dict(state)
    other(IMAGES).square().sum().backward()
    # Norms of outputs that the head does not read get no gradient.
    idle = ('norm0', 'norm1', 'norm2')
    for name, parameter in other.named_parameters():
        if parameter.requires_grad and not any(key in name for key in idle):
            assert parameter.grad.any(), name


SAME_METHOD = {
    'defaults spelt out': dict(
        adapter=dict(type='FLoRA', rank=2, kernel_rank=2, scale=4.0)
    ),
    'dropout': dict(adapter=dict(type='FLoRA', rank=2, dropout=0.1)),
    'targets spelt otherwise': dict(targets=[r'stem\..*', r'stages\..*']),
    'options of a pattern': dict(
        adapter=dict(type='FLoRA'), targets={'.*': dict(rank=2)}
    ),
    'drop path': dict(drop_path_rate=0.2),
    'autocast': dict(channels_last=True),
}


@pytest.mark.parametrize('options', SAME_METHOD.values(), ids=SAME_METHOD)
def test_the_same_method_may_be_spelt_otherwise(
    options, trained, state, kind, base
):
    model = build(kind, base, **options)
    model.load_state_dict(state, strict=True)
    torch.testing.assert_close(
        model.eval()(IMAGES), trained.eval()(IMAGES), rtol=1e-4, atol=1e-5
    )


def test_whole_checkpoint_brings_its_base(trained, kind, base):
    state = copy.deepcopy(trained.state_dict())
    base.unlink()
    other = build(kind)
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(IMAGES), trained(IMAGES))
    assert record_of(other).sha256 == record_of(trained).sha256


def test_random_base_is_saved_along(kind):
    model = build(kind, allow_random_base=True)
    with adapter_state_dict():
        state = copy.deepcopy(model.state_dict())
    assert set(state) == set(model.state_dict())
    other = build(kind, allow_random_base=True)
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(IMAGES), model(IMAGES))
    assert record_of(other).source is None


def test_plain_checkpoint_replaces_the_base(trained, kind):
    adapters = {
        key: value.clone()
        for key, value in trained.state_dict().items()
        if '.adapter.' in key
    }
    state = prefixed(kind, plain_state())
    result = trained.load_state_dict(state, strict=False)
    after = trained.state_dict()
    assert all(torch.equal(after[key], state[key]) for key in state)
    assert all(torch.equal(after[key], adapters[key]) for key in adapters)
    assert result.unexpected_keys == []
    assert not any('.adapter.' in key for key in result.missing_keys)
    # Its source is not known yet, so that it is saved along.
    assert record_of(trained).source is None
    with adapter_state_dict():
        assert set(trained.state_dict()) == set(after)


def test_replaced_base_is_announced(trained, kind, log_text):
    trained.load_state_dict(prefixed(kind, plain_state()), strict=False)
    assert 'replaces the base' in log_text()


def test_adapters_return_over_a_replaced_base(trained, state, kind, base):
    """A test after `load_from` finds the base that training stood on."""
    other = build(kind, base)
    other.load_state_dict(prefixed(kind, plain_state()), strict=False)
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(IMAGES), trained(IMAGES))


def test_copies_save_load_and_check_by_themselves(
    copy_of, trained, state, kind, base
):
    other = copy_of(trained)
    assert torch.equal(other(IMAGES), trained(IMAGES))
    with adapter_state_dict():
        assert set(other.state_dict()) == set(state)

    fresh = copy_of(build(kind, base))
    fresh.load_state_dict(state, strict=True)
    assert torch.equal(fresh(IMAGES), trained(IMAGES))

    other.load_state_dict(prefixed(kind, plain_state()), strict=False)
    assert record_of(other).source is None
    assert record_of(trained).source is not None


@pytest.mark.parametrize('update_buffers', [False, True])
def test_averaged_model_keeps_the_base(update_buffers, trained, state):
    averaged = ExponentialMovingAverage(
        trained, momentum=0.5, update_buffers=update_buffers
    )
    for _ in range(3):
        averaged.update_parameters(trained)
    inner = averaged.module
    assert record_of(inner).source == record_of(trained).source
    with adapter_state_dict():
        assert set(inner.state_dict()) == set(state)
        whole = copy.deepcopy(averaged.state_dict())
    assert not any(key.endswith('stem.0.weight') for key in whole)
    averaged.load_state_dict(whole, strict=True)
    torch.testing.assert_close(inner(IMAGES), trained(IMAGES))
