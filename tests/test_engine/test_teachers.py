"""Semi-supervised detectors and distillation: teachers stay as they are."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_checkpoint

from mmflora.checkpoint.roles import parameter_roles

from .semi_supervised import (
    detector,
    runner,
    soft_teacher,
    write_base,
)

LORA = dict(type='LoRA', rank=2)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('semi')
    base = write_base(folder / 'base.pth')
    built = runner(folder / 'run', soft_teacher(base, LORA))
    before = {k: v.clone() for k, v in built.model.state_dict().items()}
    built.train()
    return built, before, folder


def test_the_teacher_stays_out_of_the_optimizer(trained):
    built, _, _ = trained
    teacher = built.model.teacher
    assert not any(p.requires_grad for p in teacher.parameters())
    groups = built.optim_wrapper.optimizer.param_groups
    names = {name for group in groups for name in group['param_names']}
    assert {name.split('.')[0] for name in names} == {'student'}
    assert any('backbone' in name for name in names)


def test_the_student_learns_and_the_teacher_follows(trained):
    built, before, _ = trained
    after = built.model.state_dict()
    changed = {
        key
        for key, value in before.items()
        if not torch.equal(value, after[key])
    }
    for item in parameter_roles(built.model.student):
        adapts = item.name.endswith(('adapter.up', 'adapter.down'))
        assert (f'student.{item.name}' in changed) >= adapts
        assert (f'student.{item.name}' in changed) <= item.trains
    teacher = {k[8:] for k in changed if k.startswith('teacher.')}
    student = {k[8:] for k in changed if k.startswith('student.')}
    assert {k for k in student if k.endswith('adapter.up')} <= teacher


def test_both_bases_are_left_out_and_found_again(trained):
    built, before, folder = trained
    path = str(folder / 'run/epoch_1.pth')
    state = torch.load(path, weights_only=True)['state_dict']
    for name in ('student', 'teacher'):
        assert f'{name}.backbone.conv1.weight' not in state
        assert f'{name}.backbone.conv1.adapter.up' in state
    again = MODELS.build(soft_teacher(None, LORA))
    load_checkpoint(again, path)
    for key, value in built.model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_a_plain_detector_may_bring_both_bases(trained, tmp_path):
    _, _, folder = trained
    torch.manual_seed(3)
    plain = detector(None, LORA)
    plain.backbone = plain.backbone.backbone
    torch.save(MODELS.build(plain).state_dict(), tmp_path / 'plain.pth')
    built = runner(
        tmp_path / 'run',
        soft_teacher(None, LORA),
        load_from=str(tmp_path / 'plain.pth'),
    )
    built.train()
    path = str(tmp_path / 'run/epoch_1.pth')
    assert 'teacher.backbone.conv1.weight' not in torch.load(
        path, weights_only=True
    )
    again = MODELS.build(soft_teacher(None, LORA))
    load_checkpoint(again, path)
    for key, value in built.model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def retina(backbone):
    """Return the config of a small one-stage detector."""
    head = dict(
        type='mmdet.LDHead',
        num_classes=2,
        in_channels=8,
        stacked_convs=1,
        feat_channels=8,
        anchor_generator=dict(
            type='mmdet.AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8, 16, 32],
        ),
        loss_ld=dict(type='mmdet.KnowledgeDistillationKLDivLoss'),
        loss_bbox=dict(type='mmdet.GIoULoss'),
        norm_cfg=None,
    )
    return dict(
        backbone=backbone,
        neck=dict(
            type='mmdet.FPN',
            in_channels=[8, 16, 32, 64],
            out_channels=8,
            start_level=1,
            num_outs=3,
        ),
        bbox_head=head,
        train_cfg=dict(
            assigner=dict(type='mmdet.ATSSAssigner', topk=4),
            allowed_border=-1,
            pos_weight=-1,
        ),
    )


def test_a_distilled_teacher_stands_outside(trained):
    """MMDetection keeps it beside the modules: no optimizer sees it."""
    _, _, folder = trained
    backbone = detector(folder / 'base.pth', LORA).backbone
    config = retina(backbone)
    teacher = dict(retina(backbone), type='mmdet.GFL')
    teacher['bbox_head'] = dict(config['bbox_head'], type='mmdet.GFLHead')
    del teacher['bbox_head']['loss_ld']
    model = MODELS.build(
        dict(
            config,
            type='mmdet.KnowledgeDistillationSingleStageDetector',
            teacher_config=dict(model=teacher),
        )
    )
    before = [p.requires_grad for p in model.teacher_model.parameters()]
    built = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=0.1),
            constructor='mmflora.PEFTOptimWrapperConstructor',
        ),
    )
    names = {p for g in built.optimizer.param_groups for p in g['params']}
    assert not names & set(model.teacher_model.parameters())
    assert names == {p for p in model.parameters() if p.requires_grad}
    after = [p.requires_grad for p in model.teacher_model.parameters()]
    assert before == after
    model.train()
    assert not model.teacher_model.training
