"""What of the folders of peft is refused; see test_peft_exchange.py."""

import json
import re

import pytest
import torch
from test_engine.toy import TINY

from mmflora.adapters import FLoRA, adapt_layer
from mmflora.adapters.hf_peft import HFPEFT
from mmflora.extract.peft_lora import load_peft_lora, write_peft_lora
from mmflora.models import ConvNeXt

pytest.importorskip('peft')

# Peft's LoRA knows no depthwise convolution of this rank.
TARGETS = r'stages\..*(downsample\.1|mlp\.fc\d)'


@pytest.fixture
def backbone():
    """Build mmflora's ConvNeXt with peft's LoRA."""

    def build(seed=None, targets=TARGETS, **options):
        built = ConvNeXt(TINY)
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
