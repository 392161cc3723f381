"""Weights that are read block by block into bfloat16, 8 or 4 bits."""

import json

import pytest
import torch
import vit_files as files
from mmengine.registry import MODELS
from safetensors.torch import save_file
from test_plain_transformer_layouts import CASES, build, write

from mmflora.adapters.quantized import QuantizedWeight
from mmflora.adapters.quantized_base import quantized_weights

# As published, but for its size.
VIT_7B = (
    'vit_7b_patch16_dinov3',
    dict(depth=3, num_heads=2, embed_dim=16, img_size=64),
)
PLAIN = {name: case for name, case in CASES.items() if 'ConvNeXt' not in name}


def shards(folder):
    """Write the ViT-7B as huggingface.co/facebook/dinov3-vit7b16-… is."""
    folder.mkdir()
    state = files.hugging_face_dinov3(gated=True)
    names = [f'model-0000{i}-of-00002.safetensors' for i in (1, 2)]
    places = {key: names[i % 2] for i, key in enumerate(state)}
    for name in names:
        part = {key: state[key] for key in state if places[key] == name}
        save_file(part, folder / name, metadata=dict(format='pt'))
    index = dict(metadata={}, weight_map=places)
    path = folder / 'model.safetensors.index.json'
    path.write_text(json.dumps(index))
    return folder


def quantized(path, bits):
    name, small = VIT_7B
    return MODELS.build(
        dict(
            type='mmflora.PEFTBackbone',
            backbone=dict(
                type='mmflora.TimmBackbone',
                model_name=name,
                out_indices=[2],
                final_norm='last',
                dtype='bfloat16',
                init_cfg=dict(type='Pretrained', checkpoint=str(path)),
                **small,
            ),
            peft=dict(
                adapter=dict(type='FLoRA', rank=2),
                targets=r'blocks\..*',
                quantize=dict(bits=bits),
            ),
        )
    )


def same(model, dense):
    """Compare the parameters with those of a model that was loaded whole."""
    own = dict(model.named_parameters())
    expected = dict(dense.named_parameters())
    assert own.keys() == expected.keys()
    for name, parameter in expected.items():
        assert own[name].dtype == torch.bfloat16
        assert torch.equal(own[name], parameter.bfloat16()), name


@pytest.mark.parametrize(
    ('net', 'known', 'content'), PLAIN.values(), ids=PLAIN
)
def test_every_layout_gives_the_same_base(net, known, content, tmp_path):
    path = write(tmp_path / 'base.pth', (content or known)())
    model = build(path, net, dtype='bfloat16')
    same(model, build(path, net))
    assert model.base_record.in_place


def test_shards_of_the_largest(tmp_path):
    """What the model computes itself is there, too: rotary embeddings."""
    folder = shards(tmp_path / 'vit7b')
    dense = build(folder, VIT_7B, final_norm='last')
    model = build(folder, VIT_7B, final_norm='last', dtype='bfloat16')
    same(model, dense)
    images = torch.randn(2, 3, 64, 80)
    assert model(images)[-1].dtype == torch.float32
    for parameter in dense.parameters():
        parameter.data = parameter.data.bfloat16().double()
    model.double()
    model.kept_in = torch.float64
    for feature, wanted in zip(
        model(images), dense.double()(images.double()), strict=True
    ):
        assert feature.std() > 1e-3
        # Features are float32.
        torch.testing.assert_close(feature.double(), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize('bits', [8, 4])
def test_weights_are_rounded_as_they_are_read(bits, tmp_path):
    folder = shards(tmp_path / 'vit7b')
    model = quantized(folder, bits)
    stored = quantized_weights(model)
    dense = dict(build(folder, VIT_7B, dtype='bfloat16').named_parameters())
    # qkv, proj and the three layers of a gated MLP.
    assert len(stored) == 3 * 5
    for name, weight in stored.items():
        expected = QuantizedWeight.empty(dense[name], weight.scheme)
        expected.store(dense[name])
        assert torch.equal(weight.codes, expected.codes), name
        assert torch.equal(weight.scales, expected.scales), name


def lacking():
    state = files.meta_dinov3(gated=True)
    del state['blocks.2.mlp.w3.weight']
    return state


REFUSED = {
    'missing': (lacking, r'missing in the file: blocks\.2\.mlp\.fc2\.weight'),
    'unknown': (
        lambda: (
            files.meta_dinov3(gated=True)
            | {'blocks.1.extra': torch.ones(2, 2)}
        ),
        r'unknown to the model: blocks\.1\.extra',
    ),
    'biases': (
        lambda: files.meta_dinov3(gated=True, biases=True),
        'is not zero, and the model has no such biases',
    ),
    'narrower': (lambda: files.meta_dinov3(gated=True, width=8), 'width 8'),
}


@pytest.mark.parametrize(('content', 'part'), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_found_first(content, part, tmp_path, capsys):
    path = write(tmp_path / 'base.pth', content())
    with pytest.raises(ValueError, match='(?s)' + part) as caught:
        build(path, VIT_7B, dtype='bfloat16')
    assert str(path) in str(caught.value)


def test_another_type_is_refused():
    config = dict(
        type='mmflora.TimmBackbone',
        model_name=VIT_7B[0],
        out_indices=[2],
        dtype='int8',
        **VIT_7B[1],
    )
    with pytest.raises(ValueError, match="`dtype` is 'bfloat16'.*'int8'"):
        MODELS.build(config)
