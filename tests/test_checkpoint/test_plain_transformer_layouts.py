"""Plain transformers from the places where people have their weights."""

import json
import sys

import pytest
import timm
import torch
import vit_files as files
from mmengine.registry import MODELS
from safetensors.torch import save_file

EXACT = dict(rtol=1e-10, atol=1e-12)
SMALL = dict(depth=3, num_heads=2)
DINOV2 = ('vit_small_patch14_dinov2', dict(SMALL, embed_dim=24, img_size=56))
REGISTERS = ('vit_small_patch14_reg4_dinov2', DINOV2[1])
GIANT = ('vit_giant_patch14_dinov2', DINOV2[1])
DINOV3 = ('vit_small_patch16_dinov3', dict(SMALL, embed_dim=16, img_size=64))
BIASES = ('vit_small_patch16_dinov3_qkvb', DINOV3[1])
GATED = ('vit_huge_plus_patch16_dinov3', DINOV3[1])
SAM = (
    'samvit_base_patch16',
    dict(DINOV3[1], window_size=3, global_attn_indexes=(2,)),
)
EVA02 = ('eva02_base_patch14_224', DINOV2[1])
CONVNEXT = (
    'convnext_tiny', dict(depths=(1, 1, 1, 1), dims=files.DIMS)
)  # fmt: skip
# The model, what is in the file as timm's own filter reads it, and the same
# as others publish it.
CASES = {
    'DINOv2': (DINOV2, files.meta_dinov2, None),
    'DINOv2 in chunks': (
        DINOV2, files.meta_dinov2, lambda: files.meta_dinov2(chunks=2)
    ),
    'DINOv2 with registers': (
        REGISTERS, lambda: files.meta_dinov2(registers=4), None
    ),
    'DINOv2 ViT-g': (GIANT, lambda: files.meta_dinov2(packed=True), None),
    'DINOv3': (DINOV3, files.meta_dinov3, None),
    'DINOv3 with biases': (
        BIASES, lambda: files.meta_dinov3(biases=True), None
    ),
    'DINOv3, zero biases kept': (BIASES, files.meta_dinov3, None),
    'DINOv3 ViT-H+': (GATED, lambda: files.meta_dinov3(gated=True), None),
    'SAM': (SAM, files.segment_anything, None),
    'EVA-02': (EVA02, files.eva02, None),
    'EVA-02 classifier': (EVA02, lambda: files.eva02(False), None),
    'DINOv3 ConvNeXt': (CONVNEXT, files.meta_dinov3_convnext, None),
    'DINOv3 ConvNeXt of Hugging Face': (
        CONVNEXT, files.meta_dinov3_convnext,
        files.hugging_face_dinov3_convnext,
    ),
}  # fmt: skip


def build(path, net, adapter=None, **options):
    name, small = net
    return MODELS.build(
        dict(
            type='mmflora.PEFTBackbone',
            backbone=dict(
                dict(
                    type='mmflora.TimmBackbone',
                    model_name=name,
                    out_indices=(0, 2),
                    init_cfg=dict(type='Pretrained', checkpoint=str(path)),
                    **small,
                ),
                **options,
            ),
            peft=dict(adapter=adapter),
        )
    ).eval()


def write(path, content):
    torch.save(content, path)
    return path


def timms_own(net, state):
    """Build the model by timm alone, from what timm's filter makes of it."""
    name, small = net
    # Rotary embeddings that are kept would be rounded to float32.
    own = dict(dynamic_img_size=True) if name.startswith('eva') else {}
    plain = timm.create_model(name, **small, **own)
    read = sys.modules[type(plain).__module__].checkpoint_filter_fn
    result = plain.load_state_dict(read(dict(state), plain), strict=False)
    left = ('head', 'fc_norm', 'norm.')
    assert all(key.startswith(left) for key in result.missing_keys)
    return plain.double().eval()


def same_features(backbone, plain, size=64):
    inputs = torch.randn(2, 3, size, size, dtype=torch.float64)
    wanted = plain.forward_intermediates(
        inputs, indices=[0, 2], intermediates_only=True
    )
    for feature, expected in zip(
        backbone.double()(inputs), wanted, strict=True
    ):
        torch.testing.assert_close(feature, expected, **EXACT)
        assert feature.std() > 1e-3


@pytest.mark.parametrize(
    ('net', 'known', 'content'), CASES.values(), ids=CASES
)
def test_features_are_those_of_timm(net, known, content, tmp_path, capsys):
    content = (content or known)()
    backbone = build(write(tmp_path / 'base.pth', content), net)
    assert backbone.base_record.in_place
    assert capsys.readouterr().out == ''
    plain = timms_own(net, known())
    same_features(backbone, plain, net[1].get('img_size', 64))


def test_mmfloras_convnext_reads_dinov3(tmp_path):
    config = dict(
        type='mmflora.PEFTConvNeXt',
        arch=dict(depths=(1, 1, 1, 1), dims=files.DIMS),
        peft=dict(adapter=None),
    )
    states = []
    for i, content in enumerate(
        (files.meta_dinov3_convnext, files.hugging_face_dinov3_convnext)
    ):
        source = write(tmp_path / f'{i}.pth', content())
        config['init_cfg'] = dict(type='Pretrained', checkpoint=str(source))
        states.append(MODELS.build(config).base_record.sha256)
    assert states[0] == states[1]


def hugging_face(folder, kind, state, shards=1, **config):
    """Write a folder as Hugging Face has it; return its own model of it."""
    folder.mkdir()
    config = dict(
        dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=2),
        **config,
    )
    transformers = pytest.importorskip('transformers')
    settings = getattr(transformers, f'{kind}Config')(**config)
    settings.save_pretrained(folder)
    names = [
        f'model-{i + 1:05d}-of-{shards:05d}.safetensors' for i in range(shards)
    ]
    if shards == 1:
        names = ['model.safetensors']
    places = {key: names[i % shards] for i, key in enumerate(state)}
    for name in names:
        part = {k: v for k, v in state.items() if places[k] == name}
        save_file(part, folder / name, metadata=dict(format='pt'))
    if shards > 1:
        index = dict(metadata={}, weight_map=places)
        (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
    model, told = getattr(transformers, f'{kind}Model').from_pretrained(
        folder, output_loading_info=True
    )
    assert not told['missing_keys']
    assert not told['unexpected_keys']
    return model.double().eval()


DINOV2_HF = dict(image_size=56, patch_size=14, mlp_ratio=4)
DINOV3_HF = dict(
    hidden_size=16,
    image_size=64,
    patch_size=16,
    intermediate_size=64,
    num_register_tokens=4,
)
HUGGING_FACE = {
    'DINOv2': (DINOV2, 'Dinov2', files.hugging_face_dinov2, {}, DINOV2_HF),
    'DINOv2 with registers': (
        REGISTERS, 'Dinov2WithRegisters', files.hugging_face_dinov2,
        dict(registers=4), dict(DINOV2_HF, num_register_tokens=4),
    ),
    'DINOv2 ViT-g': (
        GIANT, 'Dinov2', files.hugging_face_dinov2, dict(packed=True),
        dict(DINOV2_HF, use_swiglu_ffn=True),
    ),
    'DINOv3': (
        DINOV3, 'DINOv3ViT', files.hugging_face_dinov3, {}, DINOV3_HF
    ),
    'DINOv3 with biases': (
        BIASES, 'DINOv3ViT', files.hugging_face_dinov3, dict(biases=True),
        DINOV3_HF,
    ),
    'DINOv3 ViT-H+': (
        GATED, 'DINOv3ViT', files.hugging_face_dinov3, dict(gated=True),
        dict(DINOV3_HF, use_gated_mlp=True, hidden_act='silu'),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ('net', 'kind', 'content', 'options', 'config'),
    HUGGING_FACE.values(),
    ids=HUGGING_FACE,
)
def test_features_are_those_of_hugging_face(
    net, kind, content, options, config, tmp_path
):
    """Read from a folder of shards, and from its index."""
    state = content(**options)
    folder = tmp_path / 'shards'
    model = hugging_face(folder, kind, state, shards=2, **config)
    sources = [folder, folder / 'model.safetensors.index.json']
    size = net[1]['img_size']
    inputs = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        tokens = model(inputs).last_hidden_state[:, -16:]
    wanted = tokens.transpose(1, 2).unflatten(2, (4, 4))
    for source in sources:
        backbone = build(source, net, final_norm='last').double()
        # Hugging Face computes rotary embeddings in float32; the class
        # token's position was added to it in float32.
        near = dict(rtol=1e-4, atol=1e-5) if net[0] in _FLOAT32 else EXACT
        torch.testing.assert_close(backbone(inputs)[-1], wanted, **near)


_FLOAT32 = (REGISTERS[0], DINOV3[0], BIASES[0], GATED[0])


@pytest.mark.parametrize('prefix', ['dinov2.', 'dinov2_with_registers.'])
def test_classifier_of_hugging_face(prefix, tmp_path):
    state = files.hugging_face_dinov2()
    whole = {prefix + key: value for key, value in state.items()}
    whole['classifier.weight'] = torch.ones(3, 48)
    bare, held = (
        build(write(tmp_path / f'{len(s)}.pth', s), DINOV2)
        for s in (state, whole)
    )
    assert bare.base_record.sha256 == held.base_record.sha256


RESIZED = {
    'DINOv2': (DINOV2, files.meta_dinov2, 'pos_embed', (1, 26, 24)),
    'registers': (
        REGISTERS, lambda: files.meta_dinov2(registers=4), 'pos_embed',
        (1, 25, 24),
    ),
    'EVA-02': (EVA02, files.eva02, 'pos_embed', (1, 26, 24)),
    'SAM': (SAM, files.segment_anything, 'pos_embed', (1, 5, 5, 16)),
}  # fmt: skip


@pytest.mark.parametrize(
    ('net', 'content', 'key', 'shape'), RESIZED.values(), ids=RESIZED
)
def test_positions_of_another_size(
    net, content, key, shape, tmp_path, log_text, caplog
):
    """They are resized as where images of that size are met, and said."""
    path = write(tmp_path / 'base.pth', content())
    side = net[1]['img_size'] // 4
    resized = build(path, net, img_size=5 * side).double()
    assert resized.state_dict()[key].shape == shape
    said = [line for line in caplog.messages if 'resized' in line]
    assert any(key in line for line in said)
    caplog.clear()
    met = build(path, net).double()
    assert not any('resized' in line for line in caplog.messages)
    inputs = torch.randn(1, 3, 5 * side, 5 * side, dtype=torch.float64)
    for feature, wanted in zip(resized(inputs), met(inputs), strict=True):
        # Positions are resized in float32.
        torch.testing.assert_close(feature, wanted, rtol=1e-4, atol=1e-5)


def test_patches_of_another_size(tmp_path, log_text, caplog):
    path = write(tmp_path / 'base.pth', files.meta_dinov2())
    built = build(path, DINOV2, patch_size=16, img_size=64)
    assert built.patch_embed.proj.weight.shape[-2:] == (16, 16)
    assert any('patch_embed.proj.weight resized' in x for x in caplog.messages)


def nonzero_keys():
    state = files.meta_dinov3(biases=True)
    del state['blocks.1.attn.qkv.bias_mask']
    return state


def other_periods():
    state = files.meta_dinov3()
    state['rope_embed.periods'] = torch.tensor([1.0, 31.0]).bfloat16()
    return state


REFUSED = {
    'no registers': (
        REGISTERS, files.meta_dinov2, {}, 'has 4 registers, the file none'
    ),
    'registers': (
        DINOV2, lambda: files.meta_dinov2(registers=4), {},
        'The file has 4 registers, the model none.*reg4',
    ),
    'wider': (
        DINOV2, files.meta_dinov2, dict(embed_dim=16), 'width 24, .* of 16'
    ),
    'deeper': (
        DINOV2, files.meta_dinov2, dict(depth=4, out_indices=(0, 3)),
        'has 3 blocks, the model 4',
    ),
    'another family': (
        DINOV3, files.segment_anything, {}, r'another family.*SAM'
    ),
    'DINOv3 for DINOv2': (
        CONVNEXT, files.meta_dinov3, {}, r'another family.*DINOv3'
    ),
    'biases': (
        DINOV3, lambda: files.meta_dinov3(biases=True), {},
        "model_name='vit_small_patch16_dinov3_qkvb'",
    ),
    'biases of keys': (BIASES, nonzero_keys, {}, 'biases of the keys'),
    'periods': (DINOV3, other_periods, {}, r'rope_embed\.periods'),
    'unknown key': (
        DINOV2, lambda: files.meta_dinov2() | {'extra.w': torch.ones(2)}, {},
        r'unknown to the model: extra\.w',
    ),
    'missing key': (
        EVA02,
        lambda: {
            key: value
            for key, value in files.eva02().items()
            if key != 'blocks.1.mlp.w2.bias'
        },
        {}, r'missing in the file: blocks\.1\.mlp\.fc1_x\.bias',
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ('net', 'content', 'options', 'part'), REFUSED.values(), ids=REFUSED
)
def test_files_of_other_models(net, content, options, part, tmp_path):
    path = write(tmp_path / 'base.pth', content())
    with pytest.raises(ValueError, match='(?s)' + part) as caught:
        build(path, net, **options)
    assert str(path) in str(caught.value)
