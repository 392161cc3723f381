import inspect
import re

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from timm.models.convnext import ConvNeXt as TimmConvNeXt

from mmflora.models import ConvNeXt, FLoRAConvNeXt
from mmflora.models.plain import timm_features as plain

EXACT = dict(rtol=1e-10, atol=1e-12)

# The two generations differ in layer scale and GRN; sizes up to tiny have 1×1
# convolutions where larger ones have linear layers.
SMALL = dict(depths=(1, 2, 2, 1), dims=(6, 8, 12, 16))
V1 = dict(SMALL, ls_init_value=0.5)
V2 = dict(SMALL, ls_init_value=None, use_grn=True)
ARCHS = {
    'v1, linear': V1,
    'v1, 1x1 convs': dict(V1, conv_mlp=True),
    'v2, linear': V2,
    'v2, 1x1 convs': dict(V2, conv_mlp=True),
    'v1, norm before the head': dict(V1, head_norm_first=True),
    'v1, overlapping stem': dict(V1, stem_type='overlap'),
    'v1, output stride 8': dict(V1, output_stride=8),
}


@pytest.fixture(params=ARCHS.values(), ids=ARCHS)
def arch(request):
    return request.param


def images(size=64, batch=2):
    return torch.randn(batch, 3, size, size, dtype=torch.float64)


def random_backbone(randomise, kind=ConvNeXt, **options):
    backbone = kind(**options).double()
    randomise(backbone.parameters())
    return backbone


def test_features_equal_timms(arch, randomise):
    backbone = random_backbone(randomise, arch=arch)
    net = TimmConvNeXt(**arch).double()
    result = net.load_state_dict(backbone.state_dict(), strict=False)
    assert all(key.startswith('norm') for key in result.unexpected_keys)
    assert all(
        key.startswith(('head.', 'norm_pre.')) for key in result.missing_keys
    )

    inputs = images()
    features = backbone(inputs)
    raw = net.forward_intermediates(inputs, intermediates_only=True)
    assert len(features) == 4
    for index, (feature, expected) in enumerate(
        zip(features, raw, strict=True)
    ):
        norm = backbone.get_submodule(f'norm{index}')
        expected = F.layer_norm(
            expected.permute(0, 2, 3, 1),
            norm.normalized_shape,
            norm.weight,
            norm.bias,
            1e-6,
        ).permute(0, 3, 1, 2)
        torch.testing.assert_close(feature, expected, **EXACT)


@pytest.mark.parametrize('channels_last', [False, True])
def test_strides_widths_and_memory(channels_last):
    backbone = ConvNeXt(arch=V2, channels_last=channels_last)
    features = backbone(images().float())
    # mmcv's RoIAlign reads memory as if it were contiguous.
    assert all(feature.is_contiguous() for feature in features)
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (6, 16, 16),
        (8, 8, 8),
        (12, 4, 4),
        (16, 2, 2),
    ]


@pytest.mark.parametrize(
    'out_indices', [(0,), (3,), (1, 3), (0, 1, 2), [2, 3]], ids=str
)
def test_out_indices(out_indices, randomise):
    full = random_backbone(randomise, arch=V2)
    part = ConvNeXt(arch=V2, out_indices=out_indices).double()
    state = part.state_dict()
    part.load_state_dict({key: full.state_dict()[key] for key in state})

    inputs = images()
    expected = full(inputs)
    features = part(inputs)
    assert len(features) == len(out_indices)
    for feature, index in zip(features, out_indices, strict=True):
        assert torch.equal(feature, expected[index])
    assert part.out_channels == tuple(V2['dims'][i] for i in out_indices)
    assert len(part.stages) == max(out_indices) + 1


@pytest.mark.parametrize(
    'out_indices', [(), (4,), (-1,), (1, 0), (1, 1), (0, 1, 2, 3, 4)], ids=str
)
def test_bad_out_indices(out_indices):
    with pytest.raises(ValueError, match='out_indices') as caught:
        ConvNeXt(arch=V2, out_indices=out_indices)
    assert repr(out_indices) in str(caught.value)


def test_unknown_arch_lists_near_names():
    with pytest.raises(ValueError, match='convnextv2_atto') as caught:
        ConvNeXt(arch='convnext_v2_atto')
    assert "'convnext_v2_atto'" in str(caught.value)


@pytest.mark.parametrize(
    ('name', 'widths'),
    [
        ('convnext_tiny', (96, 192, 384, 768)),
        ('convnextv2_atto', (40, 80, 160, 320)),
        ('convnextv2_huge', (352, 704, 1408, 2816)),
    ],
)
def test_sizes(name, widths):
    with torch.device('meta'):
        backbone = ConvNeXt(arch=name)
    assert backbone.out_channels == widths


@pytest.mark.parametrize(
    ('rank', 'trained'),
    [
        (16, 4_857_349),
        (42, 12_840_493),
        (83, 25_660_045),
        (129, 40_379_125),
        (130, 40_703_053),
    ],
)
def test_budget_of_flora_on_convnextv2_large(
    rank, trained, adapter_parameters
):
    with torch.device('meta'):
        backbone = FLoRAConvNeXt(
            arch='convnextv2_large', adapter=dict(type='FLoRA', rank=rank)
        )
    counts = [value.numel() for value in adapter_parameters(backbone)]
    assert sum(counts) == trained
    # Cores and factors of 112 layers: four modes of a convolution, two of
    # each linear layer in the 36 blocks.
    linear = 2 * 36
    assert len(counts) == 5 * (112 - linear) + 3 * linear
    frozen = [p.numel() for p in backbone.parameters() if not p.requires_grad]
    assert sum(frozen) == 196_416_768


@pytest.mark.parametrize('kind', [ConvNeXt, FLoRAConvNeXt])
def test_activation_checkpointing_gives_equal_gradients(kind, randomise):
    options = dict(arch=V2, drop_path_rate=0.3)
    plain = random_backbone(randomise, kind, **options)
    thrifty = kind(**options, with_cp=True).double()
    thrifty.load_state_dict(plain.state_dict())
    inputs = images()
    weights = None
    for backbone in (plain, thrifty):
        torch.manual_seed(5)
        features = backbone.train()(inputs)
        weights = weights or [torch.randn_like(item) for item in features]
        sum(
            (item * weight).sum()
            for item, weight in zip(features, weights, strict=True)
        ).backward()
    others = dict(thrifty.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.any(), name
            torch.testing.assert_close(
                others[name].grad, parameter.grad, **EXACT
            )
        else:
            assert parameter.grad is None
            assert others[name].grad is None


def test_activation_checkpointing_keeps_less(randomise):
    def saved(with_cp):
        backbone = FLoRAConvNeXt(arch=V2, with_cp=with_cp)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()) or tensor,
            lambda tensor: tensor,
        ):
            backbone(images().float())
        return sum(sizes)

    assert saved(with_cp=True) < saved(with_cp=False) / 2


def test_adapters_behind_a_frozen_stem_get_their_gradient(
    randomise, adapter_parameters
):
    backbone = FLoRAConvNeXt(arch=V2, with_cp=True, exclude=r'stem\..*')
    randomise(adapter_parameters(backbone))
    sum(item.square().sum() for item in backbone(images().float())).backward()
    assert backbone.stem[0].weight.grad is None
    assert all(value.grad.any() for value in adapter_parameters(backbone))


@pytest.mark.parametrize('kind', [ConvNeXt, FLoRAConvNeXt])
def test_channels_last_computes_the_same(kind, randomise):
    plain = random_backbone(randomise, kind, arch=V2)
    other = kind(arch=V2, channels_last=True).double()
    other.load_state_dict(plain.state_dict())
    assert other.stem[0].weight.is_contiguous(
        memory_format=torch.channels_last
    )
    inputs = images()
    for feature, expected in zip(other(inputs), plain(inputs), strict=True):
        torch.testing.assert_close(feature, expected, **EXACT)


def test_drop_path_acts_in_training_alone(randomise):
    options = dict(arch=V2, drop_path_rate=0.9)
    backbone = random_backbone(randomise, **options)
    plain = ConvNeXt(arch=V2).double()
    plain.load_state_dict(backbone.state_dict())
    inputs = images()
    expected = plain(inputs)
    for feature, wanted in zip(backbone.eval()(inputs), expected, strict=True):
        assert torch.equal(feature, wanted)
    assert not torch.equal(backbone.train()(inputs)[-1], expected[-1])


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmrotate', 'mmengine'])
def test_built_by_its_scoped_name_from_any_toolkit(scope):
    config = dict(type='mmflora.ConvNeXt', arch=V2, _scope_=scope)
    assert type(MODELS.build(config)) is ConvNeXt


def test_init_weights_without_a_source_keeps_the_values():
    backbone = ConvNeXt(arch=V2)
    before = {
        key: value.clone() for key, value in backbone.state_dict().items()
    }
    backbone.init_weights()
    after = backbone.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_stages_carry_no_classifier():
    keys = ConvNeXt(arch=V2).state_dict()
    assert all(re.match(r'stem|stages|norm[0-3]', key) for key in keys)


def test_signature_documents_every_argument():
    for kind in (ConvNeXt, plain.TimmConvNeXt):
        known = inspect.signature(kind).parameters.values()
        names = [p.name for p in known if p.kind is not p.VAR_KEYWORD]
        assert [name for name in names if f'{name}:' not in kind.__doc__] == []
