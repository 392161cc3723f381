"""Lean models compute bit for bit what others do, and keep less."""

import copy
import importlib

import pytest
import torch
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmflora.adapters import inject, make_lean
from mmflora.adapters.memory.response_norm import use_memory_efficient_grn

FLORA = dict(type='FLoRA', rank=4, kernel_rank=2, scale=0.1)


def convnext(**options):
    return ConvNeXt(
        depths=(1, 2, 1, 1),
        dims=(8, 12, 16, 20),
        use_grn=True,
        ls_init_value=None,
        num_classes=0,
        **options,
    )


def vit():
    return VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=24,
        depth=2,
        num_heads=2,
        qk_norm=True,
        num_classes=0,
    )


MODELS = {
    'convnext v2': convnext,
    'convnext v2, convolutions': lambda: convnext(conv_mlp=True),
    'vit': vit,
}


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def stored(request, monkeypatch):
    """Adapt every layer of a model; nothing is rebuilt in it."""
    model = request.param().double()
    use_memory_efficient_grn(model)
    module = importlib.import_module('mmflora.adapters.inject')
    monkeypatch.setattr(module, 'make_lean', lambda *_, **__: 0)
    report = inject(model, FLORA)
    assert report.left_out == {}
    for parameter in model.parameters():
        # Norms and biases too: ones and zeros would hide mistakes.
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(params=[True, False], ids=['norms', 'all'])
def lean(request, stored):
    model = copy.deepcopy(stored)
    assert make_lean(model, norms_only=request.param) > 3
    return model


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, dtype=torch.float64)


def step(model, images, forward=None, dtype=None):
    """Return the output and the gradient of everything that trains."""
    model.zero_grad()
    images = images.clone().requires_grad_()
    with torch.autocast('cpu', dtype or torch.bfloat16, enabled=bool(dtype)):
        output = (forward or model)(images)
    torch.manual_seed(1)
    output.backward(torch.randn_like(output))
    gradients = {
        name: value.grad
        for name, value in model.named_parameters()
        if value.requires_grad
    }
    return {'output': output, 'images': images.grad, **gradients}


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
        assert value.any()
        assert value.isfinite().all()


def test_values_and_gradients(stored, lean, images):
    assert_equal(step(lean, images), step(stored, images))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast(stored, lean, images, dtype):
    found = step(lean.float(), images.float(), dtype=dtype)
    assert_equal(found, step(stored.float(), images.float(), dtype=dtype))


@pytest.mark.parametrize('dtype', [None, torch.bfloat16], ids=str)
def test_checkpointing(stored, lean, images, dtype):
    def again(x):
        return checkpoint(lean, x, use_reentrant=False)

    lean, stored, images = lean.float(), stored.float(), images.float()
    found = step(lean, images, again, dtype)
    assert_equal(found, step(stored, images, dtype=dtype))


def test_trainable_norms_get_the_same_gradients(stored, lean, images):
    names = [name for name, _ in stored.named_parameters() if 'norm' in name]
    assert len(names) > 5
    for model in (stored, lean):
        for name in names:
            model.get_parameter(name).requires_grad_()
    found = step(lean, images)
    assert set(names) <= set(found)
    assert_equal(found, step(stored, images))


def test_backward_twice(stored, lean, images):
    def gradients(model, output):
        sources = [p for p in model.parameters() if p.requires_grad]
        torch.manual_seed(1)
        upstream = torch.randn_like(output)
        return torch.autograd.grad(output, sources, upstream, True)

    output, expected = lean(images), stored(images)
    for _ in range(3):
        pairs = gradients(lean, output), gradients(stored, expected)
        for found, wanted in zip(*pairs, strict=True):
            assert torch.equal(found, wanted)


def test_copies_are_lean_and_stand_alone(stored, lean, images, copy_of):
    other = copy_of(lean)
    assert_equal(step(other, images), step(stored, images))
    assert kept_bytes(other, images) == kept_bytes(lean, images)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    assert_equal(step(lean, images), step(stored, images))


def test_keys_stay(stored, lean):
    assert list(lean.state_dict()) == list(stored.state_dict())
    again = copy.deepcopy(lean)
    count = make_lean(again)
    hooks = [len(m._forward_hooks) for m in again.modules()]
    assert make_lean(again) == count
    assert [len(m._forward_hooks) for m in again.modules()] == hooks


def kept_bytes(model, images):
    """Sum the storages that the backward pass keeps, but for parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # The tensor, held here, keeps its address from being used anew.
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = model(images)
    total = sum(size for size, _ in kept.values())
    del output
    return total


def test_inference_keeps_nothing_and_computes_the_same(stored, lean, images):
    expected = stored(images)
    for scope in (torch.no_grad, torch.inference_mode):
        with scope():
            assert torch.equal(lean(images), expected)


class ByKeyword(nn.Module):
    """Calls its norms and activations by keyword, as some models do."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.other = nn.GroupNorm(2, 6)
        self.act = nn.GELU()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)

    def forward(self, x):
        x = self.first(self.norm(input=x))
        return self.second(self.act(input=self.other(input=x)))


def test_norms_called_by_keyword():
    model = ByKeyword().double()
    inject(model, FLORA)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    lean = copy.deepcopy(model)
    assert make_lean(lean) == 3
    images = torch.randn(4, 6, dtype=torch.float64)
    assert_equal(step(lean, images), step(model, images))
