"""Every method through the runner: losses fall, resumed runs are the same."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.runner import find_latest_checkpoint

from mmflora.adapters import adapted_modules

from .toy import TINY, Logits, runner, write_base

PEFT = dict(type='HFPEFT')
METHODS = {
    'FLoRA': dict(type='FLoRA', rank=4),
    'LoRA': dict(type='LoRA', rank=4, dropout=0.1),
    'LoRA, loralib': dict(type='LoRA', rank=4, form='loralib'),
    'DoRA': dict(type='DoRA', rank=4),
    'PiSSA': dict(type='PiSSA', rank=4),
    'OLoRA': dict(type='OLoRA', rank=4),
    'LoRA-XS': dict(type='LoRAXS', rank=4),
    'FacT': dict(type='FacT', rank=4),
    'LoTR': dict(type='LoTR', rank=4),
    'LIFT': dict(type='LIFT', rank=2, density=0.2),
    'SoKA': dict(type='SoKA', rank=4),
    'SuperLoRA': dict(type='SuperLoRA', rank=4, groups=2),
    'LoCA': dict(type='LoCA', frequencies=16),
    'BlockLoRA': dict(type='BlockLoRA', rank=4, blocks=2),
    'SNELL': dict(type='SNELL', rank=4, sparsity=0.5),
    'QueryableLoRA': dict(type='QueryableLoRA', rank=4, atoms=4),
    'MatryoshkaLoRA': dict(type='MatryoshkaLoRA', rank=4),
    'DyLoRA': dict(type='DyLoRA', rank=4),
    'MatryoshkaFLoRA': dict(type='MatryoshkaFLoRA', rank=4),
    'S2FT': dict(type='S2FT', density=0.3),
    'SSF': dict(type='SSF'),
    'Full': dict(type='Full'),
    'BitFit': dict(type='BitFit'),
    'NormTuning': dict(type='NormTuning'),
    'Houlsby': dict(type='Houlsby', width=4),
    'Pfeiffer': dict(type='Pfeiffer', width=4),
    'AdaptFormer': dict(type='AdaptFormer', width=4),
    'Compacter': dict(type='Compacter', width=4, phm_dim=2),
    'LoRand': dict(type='LoRand', kernel=4),
    'Mona': dict(type='Mona', width=4),
    'RepAdapter': dict(type='RepAdapter', rank=4),
    'peft DoRA': dict(PEFT, peft_type='LORA', r=4, use_dora=True),
    'peft VeRA': dict(PEFT, peft_type='VERA', r=8),
    'peft RandLoRA': dict(PEFT, peft_type='RANDLORA', r=4, randlora_alpha=4),
    'peft IA3': dict(PEFT, peft_type='IA3'),
    'peft LoKr': dict(PEFT, peft_type='LOKR', r=4),
}
FAST = (
    'DoRA',
    'FacT',
    'Full',
    'PiSSA',
    'peft DoRA',
    'peft RandLoRA',
    'peft LoKr',
)
EPOCHS = 8
PARAMETERS = [
    pytest.param(
        METHODS[name],
        id=name,
        marks=() if name in FAST else pytest.mark.slow,
    )
    for name in METHODS
]


def backbone(base, adapter):
    return dict(
        type='mmflora.PEFTConvNeXt',
        arch=TINY,
        adapter=adapter,
        init_cfg=dict(type='Pretrained', checkpoint=str(base)),
    )


def losses(work_dir):
    found = []
    for path in sorted(Path(work_dir).rglob('scalars.json')):
        found += [
            json.loads(line)['loss'] for line in path.read_text().splitlines()
        ]
    return found


@pytest.mark.parametrize('adapter', PARAMETERS)
def test_trains_checkpoints_resumes_and_tests(adapter, tmp_path):
    config = backbone(write_base(tmp_path / 'base.pth'), adapter)
    whole = runner(
        tmp_path / 'whole', config, epochs=EPOCHS, param_scheduler=[]
    )
    adapted = whole.model.backbone
    start = {k: v.clone() for k, v in whole.model.state_dict().items()}
    whole.train()
    seen = losses(tmp_path / 'whole')
    assert len(seen) == 3 * EPOCHS
    assert sum(seen[-6:]) < 0.9 * sum(seen[:6])

    half = tmp_path / f'whole/epoch_{EPOCHS // 2}.pth'
    state = torch.load(half, weights_only=False)['state_dict']
    check_checkpoint(state, start, adapted)
    for key in adapted.base_record.base_keys:
        name = f'backbone.{key}'
        assert torch.equal(whole.model.state_dict()[name], start[name])

    again = runner(
        tmp_path / 'again',
        config,
        epochs=EPOCHS,
        param_scheduler=[],
        load_from=str(half),
        resume=True,
    )
    again.train()
    ends = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])

    check_test(tmp_path, config, whole)


def check_checkpoint(state, start, trained):
    """Check that the file has what trains and that this has moved."""
    frozen = {f'backbone.{key}' for key in trained.base_record.base_keys}
    assert not frozen & set(state)
    assert not any('base_layer' in key for key in state), 'of peft'
    moved = [
        key
        for key, value in state.items()
        if key.startswith('backbone.') and not torch.equal(value, start[key])
    ]
    trains = {
        f'backbone.{name}'
        for name, parameter in trained.named_parameters()
        if parameter.requires_grad
    }
    assert set(moved) - {'backbone.base_record.info'} <= trains
    assert len(moved) > len(trains) // 2


def check_test(tmp_path, config, trained):
    """Check that a test reads the file, without init_weights."""
    last = find_latest_checkpoint(str(tmp_path / 'whole'))
    tested = runner(tmp_path / 'test', config, test=True, load_from=last)
    tested.test()
    predicted = Logits.last
    trained.model.eval()
    batch = torch.stack(
        [tested.test_dataloader.dataset[i]['inputs'] for i in range(12)]
    )
    with torch.no_grad():
        expected = trained.model(batch)
    torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('method', ['DoRA', 'PiSSA'])
def test_a_random_base_is_drawn_before_the_start_is_taken(method, tmp_path):
    config = dict(
        type='mmflora.PEFTBackbone',
        backbone=dict(
            type='mmseg.VisionTransformer',
            img_size=32,
            patch_size=8,
            embed_dims=32,
            num_layers=1,
            num_heads=2,
            out_indices=(0,),
        ),
        adapter=METHODS[method],
        allow_random_base=True,
    )
    import mmseg.models  # noqa: F401

    run = runner(tmp_path, config, epochs=1)
    checked = []

    def look(*_):
        for layer in adapted_modules(run.model.backbone).values():
            assert layer.delta_weight().abs().max() < 1e-6
            if method == 'PiSSA':
                adapter = layer.adapter
                matrix = layer.base_weight().flatten(1)
                up, _ = adapter.start(matrix)
                torch.testing.assert_close(up, adapter.start_up)
            checked.append(layer)

    handle = run.model.head.register_forward_pre_hook(
        lambda *_: None if checked else look()
    )
    run.train()
    handle.remove()
    assert checked


def test_full_tuning_needs_a_base(tmp_path):
    config = dict(
        type='mmflora.PEFTConvNeXt', arch=TINY, adapter=dict(type='Full')
    )
    with pytest.raises(ValueError, match='no base weights'):
        runner(tmp_path, config).train()
