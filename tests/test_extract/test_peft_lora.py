"""LoRA to peft's folders and back, with equal outputs."""

import json
import re

import pytest
import torch
from test_engine.toy import TINY
from timm.models.convnext import ConvNeXt as TimmConvNeXt

from mmflora.adapters import FLoRA, adapt_layer, adapted_layers
from mmflora.adapters.hf_peft import HFPEFT
from mmflora.extract.peft_lora import load_peft_lora, write_peft_lora
from mmflora.models import ConvNeXt

peft = pytest.importorskip('peft')

# Peft's LoRA knows no depthwise convolution of this rank.
TARGETS = r'stages\..*(downsample\.1|mlp\.fc\d)'
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def stock():
    """Build a stock timm ConvNeXt, of which the base below is a copy."""

    def stock():
        torch.manual_seed(0)
        net = TimmConvNeXt(**TINY, num_classes=0)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        return net.eval()

    return stock


@pytest.fixture
def backbone(stock):
    """Build mmflora's ConvNeXt on the same weights, with peft's LoRA."""

    def build(seed=None, targets=TARGETS, **options):
        built = ConvNeXt(TINY)
        built.load_state_dict(stock().state_dict(), strict=False)
        settings = dict(peft_type='LORA', r=4, lora_alpha=6) | options
        layers = {
            name: module
            for name, module in built.named_modules()
            if re.fullmatch(targets, name)
        }
        torch.manual_seed(seed or 0)
        for name, adapter in HFPEFT.build_all(layers, **settings).items():
            adapt_layer(layers[name], adapter)
            for parameter in adapter.parameters() if seed else ():
                torch.nn.init.normal_(parameter, std=0.2)
        return built.eval()

    return build


@torch.no_grad()
def features(net):
    """Return what the last stage gives, before any norm of the output."""
    return net.stages[-1](net.stages[:-1](net.stem(IMAGES)))


def stages_of(backbone):
    x = backbone.stem(IMAGES)
    for stage in backbone.stages:
        x = stage(x)
    return x


SETTINGS = {
    'plain': {},
    'rslora': dict(use_rslora=True),
    'dora': dict(use_dora=True, targets=r'.*\.mlp\.fc\d'),
}


@pytest.mark.parametrize('options', SETTINGS.values(), ids=SETTINGS)
def test_peft_loads_what_is_written(backbone, stock, tmp_path, options):
    ours = backbone(seed=1, **options)
    folder = write_peft_lora(ours, tmp_path / 'lora')
    model = peft.PeftModel.from_pretrained(stock(), folder).eval()
    with torch.no_grad():
        expected = stages_of(ours)
    theirs = features(model.base_model.model)
    torch.testing.assert_close(theirs, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(features(stock()), expected, atol=1e-3)
    unused = [n for n, p in model.named_parameters() if 'lora_' in n]
    assert len(unused) == sum(
        len(list(layer.adapter.parameters()))
        for layer in adapted_layers(ours).values()
    )


@pytest.mark.parametrize('options', SETTINGS.values(), ids=SETTINGS)
def test_what_peft_writes_is_loaded(backbone, stock, tmp_path, options):
    changes = dict(options)
    pattern = changes.pop('targets', TARGETS)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=pattern, **changes
    )
    model = peft.get_peft_model(stock(), config)
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if 'lora_' in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.eval().save_pretrained(str(tmp_path / 'theirs'))
    ours = backbone(**options)
    names = load_peft_lora(ours, tmp_path / 'theirs')
    assert names == list(adapted_layers(ours))
    with torch.no_grad():
        torch.testing.assert_close(
            stages_of(ours),
            features(model.base_model.model),
            rtol=1e-5,
            atol=1e-5,
        )


def test_what_does_not_fit(backbone, tmp_path):
    folder = write_peft_lora(backbone(seed=1), tmp_path / 'lora')
    ours = backbone(seed=2)
    before = {k: v.clone() for k, v in ours.state_dict().items()}

    def refused(message, model=ours, error=ValueError):
        with pytest.raises(error, match=message):
            load_peft_lora(model, folder)
        for key, value in ours.state_dict().items():
            assert torch.equal(value, before[key])

    refused('has r=4, the model 2', backbone(r=2))
    refused('lora_alpha=6', backbone(lora_alpha=1))
    refused('tensors differ', backbone(targets=r'stem\.0'))
    text = (folder / 'adapter_config.json').read_text()
    config = json.loads(text)

    def rewrite(**changes):
        path = folder / 'adapter_config.json'
        path.write_text(json.dumps({**config, **changes}))

    rewrite(peft_type='VERA')
    refused('LORA alone')
    rewrite(rank_pattern={'a': 2})
    refused('rank_pattern')
    rewrite()
    tensors = folder / 'adapter_model.safetensors'
    tensors.write_bytes(tensors.read_bytes()[:-5])
    refused('truncated')
    tensors.unlink()
    refused('adapter_model.bin', error=FileNotFoundError)
    flora = ConvNeXt(TINY)
    adapt_layer(flora.stem[0], FLoRA(flora.stem[0].weight))
    with pytest.raises(ValueError, match="peft_type='LORA'"):
        write_peft_lora(flora, tmp_path / 'other')
