"""A frozen InternViT with adapters: what trains, gradients, memory."""

import pytest
import torch
from mmengine.registry import MODELS
from test_intern_vit import EXACT, SMALL, images, random_backbone

from mmflora.adapters import adapted_layers, merge
from mmflora.models import FLoRAInternViT, InternViT

LAYERS = ('attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2')
ALL = {f'blocks.{i}.{layer}' for i in range(5) for layer in LAYERS}


def trained_keys(backbone):
    return {n for n, p in backbone.named_parameters() if p.requires_grad}


@pytest.mark.parametrize('builder', ['class', 'generic'])
def test_all_linear_layers_of_the_blocks_by_default(builder):
    adapter = dict(type='FLoRA', rank=16, scale=0.04)
    if builder == 'class':
        backbone = FLoRAInternViT(**SMALL)
    else:
        backbone = MODELS.build(
            dict(
                type='mmflora.PEFTBackbone',
                backbone=dict(type='mmflora.InternViT', **SMALL),
                adapter=adapter,
            )
        )
    layers = adapted_layers(backbone)
    assert set(layers) == ALL
    assert {layer.adapter.scale for layer in layers.values()} == {0.04}
    assert {layer.adapter.ranks for layer in layers.values()} == {(16, 16)}
    assert isinstance(backbone, InternViT)
    new = {key for key in trained_keys(backbone) if '.adapter.' not in key}
    assert new == {f'pyramid.{name}' for name, _ in pyramid(backbone)}
    assert set(backbone.base_record.new_keys) == new


def pyramid(backbone):
    return backbone.pyramid.named_parameters()


def test_targets_of_a_configuration_come_first():
    backbone = FLoRAInternViT(
        **SMALL,
        targets={r'blocks\.4\..*': dict(rank=4), r'.*qkv': {}},
        exclude=r'.*proj',
    )
    ranks = {
        name: layer.adapter.ranks[0]
        for name, layer in adapted_layers(backbone).items()
    }
    assert ranks['blocks.4.mlp.fc1'] == 4
    assert ranks['blocks.3.attn.qkv'] == 16
    assert 'blocks.4.attn.proj' not in ranks
    assert 'blocks.3.mlp.fc1' not in ranks


def test_no_pyramid_leaves_nothing_new():
    backbone = FLoRAInternViT(**{**SMALL, 'pyramid': False})
    assert all('.adapter.' in key for key in trained_keys(backbone))


def test_merged_is_the_plain_backbone(randomise, adapter_parameters):
    backbone = FLoRAInternViT(**SMALL).double()
    randomise(backbone.parameters())
    inputs = images()
    expected = backbone(inputs)
    merge(backbone)
    plain = InternViT(**SMALL).double()
    state = backbone.state_dict()
    state.pop('base_record.info')
    plain.load_state_dict(state)
    for feature, wanted in zip(plain(inputs), expected, strict=True):
        torch.testing.assert_close(feature, wanted, **EXACT)


def pair(randomise, **options):
    """A backbone and another of equal parameters with some options."""
    plain = random_backbone(randomise, FLoRAInternViT, drop_path_rate=0.3)
    other = FLoRAInternViT(**SMALL, drop_path_rate=0.3, **options).double()
    other.load_state_dict(plain.state_dict())
    return plain, other


SAVERS = {
    'checkpointed': dict(with_cp=True),
    'mlp checkpointed': dict(with_cp='mlp'),
    'lean': dict(lean=True),
    'lean, checkpointed': dict(lean=True, with_cp=True),
    'lean, mlp checkpointed': dict(lean=True, with_cp='mlp'),
}


@pytest.mark.parametrize('options', SAVERS.values(), ids=SAVERS)
def test_savers_of_memory_give_equal_gradients(options, randomise):
    plain, other = pair(randomise, **options)
    inputs = images()
    factors = None
    for backbone in (plain, other):
        torch.manual_seed(5)
        features = backbone.train()(inputs)
        factors = factors or [torch.randn_like(item) for item in features]
        sum(
            (item * factor).sum()
            for item, factor in zip(features, factors, strict=True)
        ).backward()
    found = dict(other.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.any(), name
            torch.testing.assert_close(
                found[name].grad, parameter.grad, **EXACT
            )
        else:
            assert parameter.grad is None
            assert found[name].grad is None


def kept(**options):
    """Return the bytes that live between forward and backward, by storage."""
    backbone = FLoRAInternViT(
        **{**SMALL, 'pyramid': False, 'mlp_ratio': 4.0}, **options
    )
    own = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    held = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda item: item):
        backbone(images(112).float())
    return sum(held.values())


def test_each_saver_keeps_less():
    plain, lean, half, full = (
        kept(),
        kept(lean=True),
        kept(with_cp='mlp'),
        kept(with_cp=True),
    )
    assert full < half / 3
    assert half < lean < plain


@pytest.mark.parametrize('with_cp', [True, 'mlp'])
@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
def test_adapters_behind_a_frozen_stem_get_their_gradient(
    with_cp, dtype, randomise, adapter_parameters
):
    autocast = dtype
    backbone = FLoRAInternViT(
        **SMALL, with_cp=with_cp, dtype=dtype, autocast=autocast
    )
    randomise(adapter_parameters(backbone), spread=1.0)
    features = backbone.train()(images().float())
    sum(item.square().sum() for item in features).backward()
    assert backbone.patch_embed.proj.weight.grad is None
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
        else:
            assert parameter.dtype == getattr(torch, dtype or 'float32')
            assert parameter.grad is None, name
