"""InternViT bases of every published layout, whole and in shards."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from intern_vit_files import (
    FILES,
    LAYOUTS,
    SMALL,
    authors_layout,
    native_layout,
    remote_layout,
    write_sharded,
)

from mmflora.checkpoint import adapter_state_dict
from mmflora.models import FLoRAInternViT, InternViT
from mmflora.models.plain.intern_vit_features import resize_positions

ROOT = Path(__file__).parents[2]


def pretrained(path, **options):
    return dict(type='Pretrained', checkpoint=str(path), **options)


def write(folder, state, file='shards'):
    return FILES[file](folder, state)


def assert_holds(backbone, state):
    own = backbone.state_dict()
    for key, value in state.items():
        assert torch.equal(own[key], value.to(own[key].dtype)), key


@pytest.mark.parametrize('file', FILES.values(), ids=FILES)
@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_same_base(layout, file, tmp_path):
    state = authors_layout()
    path = file(tmp_path, layout(state))
    backbone = FLoRAInternViT(**SMALL, init_cfg=pretrained(path))
    assert_holds(backbone, state)
    record = backbone.base_record
    assert record.source == pretrained(path)
    reference = tmp_path / 'reference.pth'
    torch.save(state, reference)
    other = FLoRAInternViT(**SMALL, init_cfg=pretrained(reference))
    assert record.sha256 == other.base_record.sha256


@pytest.mark.parametrize('file', ['pth', 'shards', 'pth of old'])
@pytest.mark.parametrize('stored', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('kept', [None, 'bfloat16'])
def test_types_of_file_and_model(stored, kept, file, tmp_path):
    state = authors_layout(dtype=stored)
    path = write(tmp_path, native_layout(state), file)
    backbone = FLoRAInternViT(**SMALL, dtype=kept, init_cfg=pretrained(path))
    weight = backbone.blocks[0].attn.qkv.weight
    assert weight.dtype == getattr(torch, kept or 'float32')
    assert_holds(backbone, state)


def test_plain_backbone_loads_when_weights_are_initialized(tmp_path):
    state = authors_layout()
    path = write(tmp_path, remote_layout(state))
    backbone = InternViT(**SMALL, init_cfg=pretrained(path))
    pyramid = copy.deepcopy(backbone.pyramid.state_dict())
    backbone.init_weights()
    assert_holds(backbone, state)
    assert all(p.requires_grad for p in backbone.parameters())
    for key, value in backbone.pyramid.state_dict().items():
        assert torch.equal(value, pyramid[key])


def test_transformers_own_class_computes_the_same(tmp_path):
    """The real class, its real files, and its features."""
    transformers = pytest.importorskip('transformers')
    config = transformers.InternVLVisionConfig(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=48,
        use_qk_norm=True,
        norm_type='rms_norm',
        image_size=56,
        patch_size=14,
    )
    model = transformers.InternVLVisionModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(tmp_path / 'hf', max_shard_size='20KB')
    assert len(list((tmp_path / 'hf').glob('*.safetensors'))) > 2
    backbone = FLoRAInternViT(
        **{**SMALL, 'pyramid': False}, init_cfg=pretrained(tmp_path / 'hf')
    )
    inputs = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        outputs = model(inputs, output_hidden_states=True)
        features = backbone(inputs)
    for feature, hidden in zip(
        features, outputs.hidden_states[1:], strict=True
    ):
        expected = hidden[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
        # Sums in float32 in another order, over four blocks.
        torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(
    ('grid', 'size'),
    [(16, 448), (32, 224), (16, 504), (32, 504), (16, (224, 448))],
    ids=str,
)
def test_positions_are_resized(layout, grid, size, tmp_path):
    state = authors_layout(grid=grid)
    path = write(tmp_path, layout(state))
    backbone = FLoRAInternViT(
        **{**SMALL, 'img_size': size}, init_cfg=pretrained(path)
    )
    sides = (size, size) if isinstance(size, int) else size
    image = state['pos_embed'][:, 1:].transpose(1, 2).unflatten(2, (grid,) * 2)
    image = F.interpolate(
        image,
        size=[side // 14 for side in sides],
        mode='bicubic',
        align_corners=False,
    )
    assert torch.equal(
        backbone.pos_embed[0, 1:].detach(), image.flatten(2)[0].T
    )
    assert torch.equal(backbone.pos_embed[:, 0], state['pos_embed'][:, 0])
    assert_holds(backbone, {'cls_token': state['cls_token']})


def test_positions_of_an_equal_grid_are_not_touched():
    positions = torch.randn(1, 17, 3)
    assert resize_positions(positions, (4, 4), (4, 4)) is positions
    wide = resize_positions(positions.double(), (4, 4), (7, 5))
    assert wide.dtype == torch.float64
    assert wide.shape == (1, 36, 3)


def test_patch_kernel_is_resized(tmp_path):
    """A kernel made smaller sees in a shrunk image what it saw before."""
    state = authors_layout()
    rough = torch.randn(24, 3, 4, 4)
    smooth = F.interpolate(rough, size=14, mode='bicubic')
    state['patch_embed.proj.weight'] = smooth
    path = write(tmp_path, state)
    backbone = FLoRAInternViT(
        **{**SMALL, 'patch_size': 28, 'img_size': 112},
        init_cfg=pretrained(path),
    )
    kernel = backbone.patch_embed.proj.weight
    assert kernel.shape == (24, 3, 28, 28)
    patch = torch.randn(1, 3, 14, 14)
    larger = F.interpolate(patch, size=28, mode='bicubic', antialias=True)
    before = F.conv2d(patch, state['patch_embed.proj.weight'])
    # The pseudo-inverse is computed in float32.
    torch.testing.assert_close(
        F.conv2d(larger, kernel), before, rtol=1e-3, atol=1e-3
    )


def without(key):
    return lambda state: {k: v for k, v in state.items() if k != key}


def with_key(key, *shape):
    return lambda state: state | {key: torch.ones(shape)}


DAMAGES = {
    'missing': (
        without('encoder.layer.1.mlp.fc1.bias'),
        'missing in the file: blocks.1.mlp.fc1.bias',
    ),
    'a part of qkv missing': (
        without('encoder.layer.2.attention.k_proj.weight'),
        'missing in the file: blocks.2.attn.qkv.weight[k]',
    ),
    'unknown block': (
        with_key('encoder.layer.4.lambda_1', 24),
        'unknown to the model: blocks.4.ls1.gamma',
    ),
    'unknown part': (
        with_key('embeddings.register_tokens', 1, 4, 24),
        'unknown to the model: embeddings.register_tokens',
    ),
    'shape of a part': (
        with_key('encoder.layer.0.attention.q_proj.weight', 23, 24),
        'blocks.0.attn.qkv.weight[q] (23, 24) in the file, (24, 24) in the',
    ),
    'positions of no square': (
        with_key('embeddings.position_embeddings', 1, 16, 24),
        'pos_embed (1, 16, 24) in the file, (1, 17, 24) in the model',
    ),
    'width of positions': (
        with_key('embeddings.position_embeddings', 1, 26, 23),
        'pos_embed (1, 17, 23) in the file, (1, 17, 24) in the model',
    ),
}


@pytest.mark.parametrize('kind', [InternViT, FLoRAInternViT])
@pytest.mark.parametrize('file', ['pth', 'shards'])
@pytest.mark.parametrize(('damage', 'part'), DAMAGES.values(), ids=DAMAGES)
def test_a_base_that_does_not_fit_is_listed(
    damage, part, kind, file, tmp_path
):
    path = write(tmp_path, damage(native_layout(authors_layout())), file)
    with pytest.raises(ValueError, match='do not fit') as caught:
        kind(**SMALL, init_cfg=pretrained(path)).init_weights()
    assert part in str(caught.value)
    assert str(path) in str(caught.value)
    assert 'prefix' in str(caught.value)  # a remedy


@pytest.mark.parametrize(
    'options',
    [
        dict(depth=5, out_indices=(0, 1, 2, 4)),
        dict(depth=3, out_indices=(0, 2), pyramid=False),
        dict(embed_dims=27),
        dict(qkv_bias=True),
        dict(qk_norm=False),
    ],
    ids=str,
)
def test_weights_of_another_architecture(options, tmp_path):
    path = write(tmp_path, remote_layout(authors_layout()))
    with pytest.raises(ValueError, match='do not fit'):
        FLoRAInternViT(**{**SMALL, **options}, init_cfg=pretrained(path))


def test_refused_weights_leave_the_backbone_alone(tmp_path):
    state = without('blocks.3.ls2.gamma')(authors_layout())
    path = write(tmp_path, state)
    backbone = InternViT(**SMALL)
    before = copy.deepcopy(backbone.state_dict())
    backbone.init_cfg = pretrained(path)
    with pytest.raises(ValueError, match='do not fit'):
        backbone.init_weights()
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key])


def test_blocks_that_are_not_built_are_not_missed(tmp_path):
    state = authors_layout()
    path = write(tmp_path, native_layout(state))
    backbone = FLoRAInternViT(
        **{**SMALL, 'out_indices': (0, 1), 'pyramid': False},
        init_cfg=pretrained(path),
    )
    kept = {k: v for k, v in state.items() if k[:8] not in UNBUILT}
    assert len(backbone.blocks) == 2
    assert_holds(backbone, kept)


UNBUILT = ('blocks.2', 'blocks.3')


def test_what_contrastive_training_left_is_not_used(tmp_path):
    state = authors_layout()
    extra = {
        'clip_projector.cross_attn.q_bias': torch.ones(3),
        'norm.weight': torch.ones(24),
        'head.weight': torch.ones(5, 24),
        'logit_scale': torch.ones(()),
    }
    path = write(tmp_path, state | extra, 'pth')
    assert_holds(FLoRAInternViT(**SMALL, init_cfg=pretrained(path)), state)


def test_backbone_of_a_segmenter_brings_its_pyramid(tmp_path, randomise):
    """Also the authors' own, who name the pyramid's layers up1, up2."""
    donor = InternViT(**SMALL)
    randomise(donor.parameters())
    for name in ('pyramid.up', 'up'):
        state = {
            'backbone.' + key.replace('pyramid.up', name): value
            for key, value in donor.state_dict().items()
        }
        path = tmp_path / f'{name}.pth'
        torch.save(
            dict(state_dict=state | {'decode_head.bias': torch.ones(3)}), path
        )
        backbone = FLoRAInternViT(
            **SMALL, init_cfg=pretrained(path, prefix='backbone.')
        )
        assert_holds(backbone, donor.state_dict())


def test_missing_shard_is_named(tmp_path):
    index = write_sharded(tmp_path / 'hf', authors_layout())
    (tmp_path / 'hf/model-00002-of-00003.safetensors').unlink()
    for source in (index, index.parent):
        with pytest.raises(FileNotFoundError, match='00002-of-00003'):
            FLoRAInternViT(**SMALL, init_cfg=pretrained(source))


def test_truncated_shard_is_named(tmp_path):
    index = write_sharded(tmp_path / 'hf', authors_layout())
    shard = tmp_path / 'hf/model-00002-of-00003.safetensors'
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match='00002-of-00003.*truncated'):
        FLoRAInternViT(**SMALL, init_cfg=pretrained(index))


def test_index_of_another_download(tmp_path):
    index = write_sharded(tmp_path / 'hf', authors_layout())
    content = json.loads(index.read_text())
    shard = content['weight_map']['cls_token']
    content['weight_map']['of.another'] = shard
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r'of\.another'):
        FLoRAInternViT(**SMALL, init_cfg=pretrained(index))


def test_adapters_alone_are_saved_and_find_their_base(tmp_path, randomise):
    """Over a base in shards and bfloat16; the model of a test has none."""
    path = write(tmp_path, native_layout(authors_layout()))
    options = dict(SMALL, dtype='bfloat16', autocast='bfloat16')
    trained = FLoRAInternViT(**options, init_cfg=pretrained(path))
    randomise(p for p in trained.parameters() if p.requires_grad)
    with adapter_state_dict():
        state = copy.deepcopy(trained.state_dict())
    assert not any(key in trained.base_record.base_keys for key in state)
    inputs = torch.randn(1, 3, 56, 56)
    expected = trained(inputs)
    for init_cfg in (pretrained(path), None):
        model = FLoRAInternViT(**options, init_cfg=init_cfg)
        result = model.load_state_dict(state)
        assert not result.missing_keys
        assert model.base_record.sha256 == trained.base_record.sha256
        for feature, wanted in zip(model(inputs), expected, strict=True):
            assert torch.equal(feature, wanted)


@pytest.mark.parametrize(
    'layout', [pytest.param('native', marks=pytest.mark.slow), 'authors']
)
def test_peak_of_memory_is_little_more_than_the_weights(layout, tmp_path):
    """120 MB of weights; the bound of the full size holds here too."""
    command = [
        *(sys.executable, str(ROOT / 'benchmarks/load_memory.py')),
        *('--blocks', '20', '--width', '512', '--heads', '8'),
        *('--shards', '2', '--layout', layout, '--folder', str(tmp_path)),
        '--json',
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=300
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures['weights'] == pytest.approx(126e6, rel=0.05)
    # Nothing is counted away: it cannot be below what it holds.
    assert 0.98 < figures['ratio'] < 1.15
    assert not list(tmp_path.iterdir()), 'the files stayed'
