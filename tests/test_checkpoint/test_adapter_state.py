import copy
import logging
import pickle

import pytest
import torch
from convnext_files import V1, V2, fair_layout, stock_net
from mmengine.logging import MMLogger
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from mmflora.checkpoint import adapter_state_dict
from mmflora.checkpoint.adapter_state import INFO_KEY
from mmflora.models import FLoRAConvNeXt

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


class Detector(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.backbone = FLoRAConvNeXt(**options)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, images):
        return self.head(self.backbone(images)[-1])


class Bare(FLoRAConvNeXt):
    def forward(self, images):
        return super().forward(images)[-1]


MODELS = dict(detector=Detector, backbone=Bare)


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def kind(request):
    return request.param


def record_of(model):
    return getattr(model, 'backbone', model).base_record


@pytest.fixture
def base(tmp_path):
    path = tmp_path / 'base.pth'
    torch.save(dict(model=fair_layout(stock_net(V2))), path)
    return path


def pretrained(path):
    return dict(type='Pretrained', checkpoint=str(path))


def build(kind, base=None, **options):
    options = dict(arch=V2, adapter=dict(type='FLoRA', rank=2)) | options
    config = None if base is None else pretrained(base)
    return kind(init_cfg=config, **options)


@pytest.fixture
def trained(kind, base, randomise):
    model = build(kind, base)
    randomise(value for value in model.parameters() if value.requires_grad)
    return model


@pytest.fixture
def state(trained):
    with adapter_state_dict():
        return copy.deepcopy(trained.state_dict())


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


def test_no_key_is_reported(trained, state, kind, base):
    for source in (base, None):
        result = build(kind, source).load_state_dict(state, strict=False)
        assert result.missing_keys == []
        assert result.unexpected_keys == []


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


def refused(error, model, state):
    with pytest.raises(error) as caught:
        model.load_state_dict(state, strict=False)
    with pytest.raises(error):
        mmengine_checkpoint.load_state_dict(model, state, strict=False)
    return str(caught.value)


def test_adapters_of_another_base(state, kind, base, tmp_path):
    other_base = tmp_path / 'other.pth'
    torch.save(stock_net(V2, seed=7).state_dict(), other_base)
    model = build(kind, other_base)
    before = model(IMAGES)
    message = refused(ValueError, model, state)
    assert str(base) in message
    assert str(other_base) in message
    assert 'init_cfg.checkpoint' in message
    assert torch.equal(model(IMAGES), before)


def test_base_that_is_gone(state, kind, base):
    base.unlink()
    message = refused(FileNotFoundError, build(kind), state)
    assert str(base) in message
    assert 'model.backbone.init_cfg.checkpoint=' in message


def test_base_that_has_changed(state, kind, base):
    net = stock_net(V2)
    with torch.no_grad():
        net.stem[0].bias[0] += 1e-3
    torch.save(net.state_dict(), base)
    message = refused(ValueError, build(kind), state)
    assert str(base) in message
    assert 'other weights' in message


def test_base_that_is_truncated(state, kind, base):
    base.write_bytes(base.read_bytes()[:1000])
    message = refused(ValueError, build(kind), state)
    assert str(base) in message


MISFITS = {
    'rank': dict(adapter=dict(type='FLoRA', rank=3)),
    'kernel rank': dict(adapter=dict(type='FLoRA', rank=2, kernel_rank=1)),
    'targets': dict(targets=r'stages\..*'),
    'exclude': dict(exclude=r'stem\..*'),
    'no adapters': dict(out_indices=(3,)),
}


@pytest.mark.parametrize('with_base', [True, False], ids=['base', 'no base'])
@pytest.mark.parametrize('options', MISFITS.values(), ids=MISFITS)
def test_adapters_of_another_method_are_listed(
    options, with_base, state, kind, base
):
    model = build(kind, base if with_base else None, **options)
    message = refused(ValueError, model, state)
    assert 'does not fit' in message
    assert "'rank': 2" in message
    assert '.adapter.' in message or 'norm0' in message


@pytest.mark.parametrize(
    'arch',
    [
        dict(V2, dims=(6, 8, 12, 18)),
        dict(V2, depths=(1, 2, 1, 2)),
        dict(V2, conv_mlp=True),
    ],
    ids=['wider', 'deeper', 'other blocks'],
)
def test_adapters_of_another_architecture_are_listed(arch, state, kind):
    message = refused(ValueError, build(kind, arch=arch), state)
    assert '.adapter.' in message


def test_another_scale_would_give_other_outputs(state, kind, base):
    """No shape tells it, so that the checkpoint itself must."""
    model = build(kind, base, adapter=dict(type='FLoRA', rank=2, scale=1.0))
    message = refused(ValueError, model, state)
    assert 'scale' in message


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


def test_a_missing_adapter_is_listed(state, kind, base):
    key = next(key for key in state if key.endswith('.adapter.core'))
    del state[key]
    message = refused(ValueError, build(kind, base), state)
    assert f'missing in the file: {key.removeprefix("backbone.")}' in message


@pytest.mark.parametrize(
    'damage',
    [
        lambda info: info.zero_(),
        lambda info: info[:40],
        lambda info: info.fill_(0xC3),
    ],
    ids=['zeros', 'cut off', 'noise'],
)
def test_damaged_record(damage, state, kind, base):
    key = next(key for key in state if key.endswith(INFO_KEY))
    state[key] = damage(state[key])
    assert 'damaged' in refused(ValueError, build(kind, base), state)


def test_whole_checkpoint_brings_its_base(trained, kind, base):
    state = copy.deepcopy(trained.state_dict())
    base.unlink()
    other = build(kind)
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(IMAGES), trained(IMAGES))
    assert record_of(other).sha256 == record_of(trained).sha256


def test_part_of_a_base_beside_adapters_is_refused(trained, kind, base):
    state = trained.state_dict()
    key = next(key for key in state if key.endswith('stem.0.weight'))
    del state[key]
    message = refused(ValueError, build(kind, base), state)
    assert 'missing in the file: stem.0.weight' in message


def test_random_base_is_saved_along(kind):
    model = build(kind, allow_random_base=True)
    with adapter_state_dict():
        state = copy.deepcopy(model.state_dict())
    assert set(state) == set(model.state_dict())
    other = build(kind, allow_random_base=True)
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(IMAGES), model(IMAGES))
    assert record_of(other).source is None


@pytest.mark.parametrize('with_base', [True, False], ids=['base', 'no base'])
def test_adapters_over_a_random_base_need_it(kind, base, with_base):
    model = build(kind, allow_random_base=True)
    prefix = 'backbone.' if kind is Detector else ''
    state = model.state_dict()
    for key in record_of(model).base_keys:
        del state[prefix + key]
    other = build(kind, base if with_base else None)
    message = refused(ValueError, other, state)
    assert 'random' in message


def plain_state(seed=7):
    """Return a stock detector: whole base, norms of outputs, and a head."""
    net = stock_net(V2, seed=seed)
    return {
        key: value
        for key, value in net.state_dict().items()
        if not key.startswith('head.')
    }


def prefixed(kind, state):
    prefix = 'backbone.' if kind is Detector else ''
    return {prefix + key: value for key, value in state.items()}


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


def test_replaced_base_is_announced(trained, kind, caplog):
    # MMEngine's logger does not propagate to the root, where caplog listens.
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        trained.load_state_dict(prefixed(kind, plain_state()), strict=False)
    finally:
        logger.removeHandler(caplog.handler)
    assert 'replaces the base' in caplog.text


def test_adapters_return_over_a_replaced_base(trained, state, kind, base):
    """A test after `load_from` finds the base that training stood on."""
    other = build(kind, base)
    other.load_state_dict(prefixed(kind, plain_state()), strict=False)
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(IMAGES), trained(IMAGES))


def test_part_of_a_base_is_refused(trained, kind):
    state = prefixed(kind, plain_state())
    del state[next(key for key in state if key.endswith('stem.0.weight'))]
    before = trained(IMAGES)
    message = refused(ValueError, trained, state)
    assert 'missing in the file: stem.0.weight' in message
    assert torch.equal(trained(IMAGES), before)


def test_base_of_another_architecture_is_refused(trained, kind):
    net = stock_net(V1)
    message = refused(ValueError, trained, prefixed(kind, net.state_dict()))
    assert 'grn' in message


COPIES = {
    'deepcopy': copy.deepcopy,
    'pickle': lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize('copy_of', COPIES.values(), ids=COPIES)
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
