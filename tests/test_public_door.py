"""What `import mmflora` gives, on modules that no config has built."""

import copy
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import mmflora
from mmflora.adapter_files import of_model
from mmflora.adapter_files.read import read_any
from mmflora.adapters import adapted_modules
from mmflora.models import FLoRAConvNeXt

FLORA = dict(type='FLoRA', rank=2)
LORA = dict(type='LoRA', rank=2)
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """A backbone with BatchNorm, and a head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
        )
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        return self.head(self.backbone(images).mean((2, 3)))


@pytest.fixture
def stock():
    torch.manual_seed(0)
    return Net()


def train(model):
    """Move everything that trains away from where it starts."""
    model.train()(IMAGES)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


def adapted(stock, *calls, part='backbone'):
    model = copy.deepcopy(stock)
    for settings in calls or [dict(adapter=FLORA)]:
        mmflora.inject(model.get_submodule(part), **settings)
    return train(model)


TWO = (
    dict(adapter=FLORA, targets='0'),
    dict(adapter=LORA, targets={'3': dict(alpha=4.0)}, lean=True),
)


@pytest.mark.parametrize('part', ['backbone', ''])
@pytest.mark.parametrize('calls', [(), TWO[:1], TWO], ids=len)
def test_an_adapter_returns_to_the_stock_model(stock, tmp_path, calls, part):
    if part == '':
        calls = [
            {**call, 'targets': r'backbone\..*'}
            for call in calls[:1] or [dict(adapter=FLORA)]
        ]
    model = adapted(stock, *calls, part=part)
    path = mmflora.save_adapter(model, tmp_path / 'a.safetensors')
    for empty in (stock, adapted(stock, *calls, part=part)):
        found = mmflora.load_adapter(copy.deepcopy(empty), path).eval()
        assert torch.equal(found(IMAGES), model(IMAGES))
    names = load_file(path)
    assert 'backbone.0.weight' not in names
    assert 'backbone.1.running_mean' in names
    # A head beside the adapted part trains; one inside it is frozen.
    assert ('head.weight' in names) is (part == 'backbone')


def test_a_head_that_was_unfrozen_travels(stock, tmp_path):
    model = copy.deepcopy(stock)
    mmflora.inject(model, FLORA, targets=r'backbone\..*')
    model.head.requires_grad_(True)
    train(model)
    path = mmflora.save_adapter(model, tmp_path / 'folder', dict(mAP=0.5))
    found = mmflora.load_adapter(copy.deepcopy(stock), path).eval()
    assert torch.equal(found(IMAGES), model(IMAGES))


def other_base(stock):
    with torch.no_grad():
        stock.backbone[0].weight[0, 0, 0, 0] += 1e-3
    return 'another base'


def other_settings(stock):
    mmflora.inject(stock.backbone, dict(type='FLoRA', rank=2, scale=9.0))
    return 'another base|was trained with'


def other_head(stock):
    stock.head = nn.Linear(8, 5)
    return r'head\.weight \(4, 8\) in the file, \(5, 8\) in the model'


def other_parts(stock):
    stock.trunk = stock.backbone
    del stock.backbone
    return "the part 'backbone', which Net has not"


@pytest.mark.parametrize(
    'change', [other_base, other_settings, other_head, other_parts]
)
def test_what_does_not_fit_changes_nothing(stock, tmp_path, change):
    path = mmflora.save_adapter(adapted(stock), tmp_path / 'a.safetensors')
    message = change(stock)
    before = {key: value.clone() for key, value in stock.state_dict().items()}
    layers = list(adapted_modules(stock))
    with pytest.raises(ValueError, match=message):
        mmflora.load_adapter(stock, path)
    assert list(adapted_modules(stock)) == layers
    after = stock.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_a_file_names_no_module_to_import(stock, tmp_path, monkeypatch):
    path = mmflora.save_adapter(adapted(stock), tmp_path / 'a.safetensors')
    (tmp_path / 'evil_method.py').write_text('raise SystemExit')
    monkeypatch.syspath_prepend(str(tmp_path))
    honest = read_any(path)
    method = honest.config['backbones']['backbone']['method']
    method['injections'][0]['adapter'] = {'type': 'evil_method.Method'}
    monkeypatch.setattr(of_model, 'read_any', lambda _: honest)
    with pytest.raises(ValueError, match='Unknown adapter type'):
        mmflora.load_adapter(stock, path)
    assert 'evil_method' not in sys.modules


@pytest.mark.parametrize('method', [FLORA, dict(type='BitFit')])
def test_adapters_are_saved_though_they_are_frozen_now(
    stock, tmp_path, method
):
    model = adapted(stock, dict(adapter=method))
    model.backbone.requires_grad_(False)
    path = mmflora.save_adapter(model, tmp_path / 'a.safetensors')
    found = mmflora.load_adapter(copy.deepcopy(stock), path).eval()
    assert torch.equal(found(IMAGES), model(IMAGES))


def test_a_copy_that_hides_what_trained_is_not_saved(stock, tmp_path):
    model = copy.deepcopy(stock)
    mmflora.inject(model, FLORA, targets=r'backbone\..*')
    model.head.requires_grad_(True)
    average = AveragedModel(train(model)).module.requires_grad_(False)
    with pytest.raises(ValueError, match='requires a gradient'):
        mmflora.save_adapter(average, tmp_path / 'a.safetensors')
    assert not list(tmp_path.iterdir())


def test_a_merged_model_is_not_saved(stock, tmp_path):
    model = adapted(stock)
    way_back = mmflora.merge(model)
    with pytest.raises(ValueError, match="'backbone' .*merged or taken off"):
        mmflora.save_adapter(model, tmp_path / 'a.safetensors')
    assert not list(tmp_path.iterdir())
    way_back.unmerge()
    mmflora.save_adapter(model, tmp_path / 'a.safetensors')


def test_a_merged_model_of_a_config_is_not_saved(tmp_path):
    arch = dict(depths=(1, 1, 1, 1), dims=(4, 4, 4, 4))
    backbone = FLoRAConvNeXt(arch=arch)
    mmflora.merge(backbone)
    with pytest.raises(ValueError, match='merged or taken off'):
        mmflora.save_adapter(backbone, tmp_path / 'a.safetensors')


def test_a_model_without_adapters_is_not_saved(stock, tmp_path):
    with pytest.raises(ValueError, match='no adapter to save'):
        mmflora.save_adapter(stock, tmp_path / 'a.safetensors')
    assert not list(tmp_path.iterdir())


def test_switching_off_merging_and_unloading(stock):
    model = adapted(stock)
    ours = model(IMAGES)
    plain = copy.deepcopy(stock).eval()
    with mmflora.disabled(model):
        # BatchNorm has seen the images, the head has trained.
        plain.load_state_dict(
            {key: model.state_dict()[key] for key in plain.state_dict()}
        )
        assert torch.equal(model(IMAGES), plain(IMAGES))
    way_back = mmflora.merge(model)
    assert model.state_dict().keys() == stock.state_dict().keys()
    torch.testing.assert_close(model(IMAGES), ours)
    way_back.unmerge()
    assert torch.equal(model(IMAGES), ours)
    mmflora.unload(model)
    assert torch.equal(model(IMAGES), plain(IMAGES))
    assert {type(m) for m in model.modules()} == {
        type(m) for m in stock.modules()
    }
    assert all(p.requires_grad for p in model.parameters())


def test_the_door_is_small():
    assert set(mmflora.__all__) >= {
        'disabled',
        'inject',
        'load_adapter',
        'merge',
        'save_adapter',
        'unload',
    }
