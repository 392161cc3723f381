"""Starts of huggingface/peft's EVA and LoRA-GA, and ours."""

import copy

import pytest
import torch
from torch import nn

import mmflora
from mmflora.adapters import inject
from mmflora.adapters.decompositions import leading_directions

peft = pytest.importorskip('peft')
EXACT = dict(rtol=1e-10, atol=1e-12)
# peft decomposes in float32: 6e-8 of the largest singular value over a gap
# of 1e-2 of it, at least.
SINGLE = dict(rtol=1e-4, atol=1e-5)
NAMES = ('0', '2', '4')


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(9, 12, bias=False),
        nn.Tanh(),
        nn.Linear(12, 10, bias=False),
        nn.Tanh(),
        nn.Linear(10, 8, bias=False),
    ).double()


@pytest.fixture
def images():
    """Inputs x and -x of an odd network: peft takes off means, here zero."""
    drawn = torch.randn(40, 9, dtype=torch.float64) * torch.arange(1, 10)
    return torch.cat([drawn, -drawn])


def aligned(ours, theirs):
    """Return rows of ours with the signs of theirs."""
    return ours * (ours * theirs).sum(1, keepdim=True).sign()


def test_directions_are_those_of_pefts_incremental_decomposition(images):
    from peft.utils.incremental_pca import IncrementalPCA

    theirs = IncrementalPCA(n_components=4)
    theirs.partial_fit(images)
    ours, shares = leading_directions(images.T @ images / len(images), 4)
    components = theirs.components_
    torch.testing.assert_close(aligned(ours, components), components, **EXACT)
    torch.testing.assert_close(
        shares, theirs.explained_variance_ratio_, **EXACT
    )


def test_eva_has_pefts_ranks_and_start(net, images):
    ours = copy.deepcopy(net).requires_grad_(False)
    inject(ours, dict(type='EVA', rank=6, rho=2.0))
    mmflora.calibrate(ours, [images], lambda batch: ours(batch).sum())
    config = peft.LoraConfig(
        r=3,
        target_modules=[*NAMES],
        init_lora_weights='eva',
        eva_config=peft.EvaConfig(rho=2.0),
    )
    theirs = peft.get_peft_model(copy.deepcopy(net), config)
    peft.initialize_lora_eva_weights(
        theirs,
        [images],
        forward_fn=lambda model, batch: model(batch),
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=None,
        show_progress_bar=False,
    )
    total = 0
    for name in NAMES:
        down = ours.get_submodule(name).adapter.down
        layer = theirs.base_model.model.get_submodule(name)
        expected = layer.lora_A['default'].weight.detach().double()
        rank = int(down.any(1).sum())
        total += rank
        assert expected.shape == (rank, down.shape[1])
        found = aligned(down[:rank], expected)
        torch.testing.assert_close(found, expected, **SINGLE)
        assert not layer.lora_B['default'].weight.any()
    assert total == 9


# peft's hooks ask for gradients of inputs, and images have none.
@pytest.mark.filterwarnings('ignore:Full backward hook')
def test_lora_ga_takes_pefts_directions(net, images):
    """They scale otherwise: A not at all, B by its singular values."""

    def loss(model):
        return model(images).pow(4).mean()

    config = peft.LoraConfig(
        r=2,
        target_modules=[*NAMES],
        init_lora_weights='lora_ga',
        lora_ga_config=peft.LoraGAConfig(stable_gamma=16),
    )
    from peft.tuners.lora.loraga import preprocess_loraga

    base = copy.deepcopy(net)
    preprocess_loraga(base, config, lambda: loss(base).backward())
    theirs = peft.get_peft_model(base, config).base_model.model
    ours = copy.deepcopy(net).requires_grad_(False)
    inject(ours, dict(type='LoRAGA', rank=2, gamma=16.0))
    mmflora.calibrate(ours, [0], lambda _: loss(ours))
    for name in NAMES:
        layer, adapter = theirs.get_submodule(name), ours[int(name)].adapter
        size = len(adapter.up) ** 0.25 / 4
        pairs = (
            (adapter.down, layer.lora_A['default'].weight, size),
            (adapter.up.T, layer.lora_B['default'].weight.T, size),
        )
        for found, expected, factor in pairs:
            unit = nn.functional.normalize(expected.detach().double())
            torch.testing.assert_close(
                aligned(found, unit), factor * unit, **SINGLE
            )
        whole = layer.weight + layer.get_delta_weight('default')
        torch.testing.assert_close(whole, net[int(name)].weight, **SINGLE)
        assert not ours[int(name)].delta_weight().any()
