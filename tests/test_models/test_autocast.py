import pytest
import torch
from torch import nn

from mmflora.models import ConvNeXt, FLoRAConvNeXt
from mmflora.models.autocast import run_in_autocast

SMALL = dict(
    depths=(1, 1, 1, 1), dims=(6, 8, 12, 16), ls_init_value=None, use_grn=True
)


class Probe(nn.Module):
    """Returns its features in a container; notes autocast on the way."""

    def __init__(self, container=tuple, fails=False):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.container, self.fails = container, fails
        self.seen = None

    def forward(self, inputs):
        self.seen = torch.is_autocast_enabled('cpu')
        if self.fails:
            raise RuntimeError('no memory')
        features = [self.fc(inputs), self.fc(inputs)]
        if self.container is dict:
            return dict(zip('ab', features, strict=True))
        return self.container(features)


def inputs():
    return torch.randn(2, 4)


@pytest.mark.parametrize('container', [tuple, list, dict])
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_features_are_float32_and_computed_lower(container, dtype):
    probe = Probe(container)
    run_in_autocast(probe, dtype)
    x = inputs()
    with torch.autocast('cpu', dtype=getattr(torch, dtype)):
        expected = probe.fc(x)
    assert expected.dtype == getattr(torch, dtype)
    outputs = probe(x)
    assert type(outputs) is container
    values = outputs.values() if container is dict else outputs
    for value in values:
        assert value.dtype == torch.float32
        assert torch.equal(value, expected.float())


def test_scope_closes_after_the_forward_pass():
    probe = Probe()
    run_in_autocast(probe, 'bfloat16')
    probe(inputs())
    assert probe.seen
    assert not torch.is_autocast_enabled('cpu')


def test_scope_closes_after_an_exception():
    probe = Probe(fails=True)
    run_in_autocast(probe, 'bfloat16')
    for _ in range(2):
        with pytest.raises(RuntimeError, match='no memory'):
            probe(inputs())
        assert probe.seen
        assert not torch.is_autocast_enabled('cpu')


def test_an_outer_scope_is_left_as_it_was():
    probe = Probe()
    run_in_autocast(probe, 'bfloat16')
    with torch.autocast('cpu', dtype=torch.float16):
        probe(inputs())
        assert torch.get_autocast_dtype('cpu') == torch.float16
        assert torch.is_autocast_enabled('cpu')


def test_input_may_be_passed_by_name():
    probe = Probe()
    run_in_autocast(probe, 'bfloat16')
    assert probe(inputs=inputs())[0].dtype == torch.float32
    assert probe.seen


def test_meta_device_knows_no_autocast():
    probe = Probe().to('meta')
    run_in_autocast(probe, 'bfloat16')
    assert probe(inputs().to('meta'))[0].is_meta


def test_copies_have_a_scope_of_their_own(copy_of):
    probe = Probe()
    run_in_autocast(probe, 'bfloat16')
    other = copy_of(probe)
    assert other(inputs())[0].dtype == torch.float32
    assert other.seen
    assert probe.seen is None
    assert not torch.is_autocast_enabled('cpu')


@pytest.mark.parametrize('dtype', ['bf16', 'float32', '', torch.bfloat16])
def test_unknown_type(dtype):
    with pytest.raises(ValueError, match='bfloat16, float16') as caught:
        run_in_autocast(Probe(), dtype)
    assert repr(dtype) in str(caught.value)


@pytest.mark.parametrize('with_cp', [False, True])
def test_backbone_under_autocast(with_cp):
    torch.manual_seed(0)
    plain = ConvNeXt(arch=SMALL)
    backbone = FLoRAConvNeXt(arch=SMALL, autocast='bfloat16', with_cp=with_cp)
    backbone.load_state_dict(
        {**backbone.state_dict(), **plain.state_dict()}, strict=True
    )
    images = torch.randn(1, 3, 64, 64)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        expected = plain(images)
    features = backbone(images)
    for feature, wanted in zip(features, expected, strict=True):
        assert feature.dtype == torch.float32
        assert torch.equal(feature, wanted.float())
    sum(feature.sum() for feature in features).backward()
    core = backbone.stem[0].adapter.core
    assert core.grad.dtype == torch.float32
