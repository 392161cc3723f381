"""A small SoftTeacher of mmdet with adapted backbones, and made data."""

from pathlib import Path

import mmdet
import mmdet.models
import torch
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch.utils.data import Dataset

RESNET = dict(
    type='mmdet.ResNet',
    depth=18,
    base_channels=8,
    frozen_stages=1,
    zero_init_residual=False,
)


def detector(base, adapter):
    """Return the config of a small Faster R-CNN over the base in a file."""
    folder = Path(mmdet.__file__).parent / '.mim/configs/_base_/models'
    model = Config.fromfile(folder / 'faster-rcnn_r50_fpn.py').model
    model.backbone = dict(
        type='mmflora.PEFTBackbone',
        backbone=dict(
            RESNET,
            init_cfg=base and dict(type='Pretrained', checkpoint=str(base)),
        ),
        peft=dict(adapter=adapter),
    )
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=8)
    model.rpn_head.update(in_channels=8, feat_channels=8)
    head = model.roi_head
    head.bbox_roi_extractor.out_channels = 8
    head.bbox_head.update(in_channels=8, fc_out_channels=16, num_classes=2)
    model.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=20)
    model.test_cfg.rpn.update(nms_pre=50, max_per_img=20)
    model.train_cfg.rcnn.sampler.num = 16
    return model


def soft_teacher(base, adapter):
    """Return the config of a SoftTeacher of two such detectors."""
    student = detector(base, adapter)
    return ConfigDict(
        type='mmdet.SoftTeacher',
        detector=student,
        data_preprocessor=dict(
            type='mmdet.MultiBranchDataPreprocessor',
            data_preprocessor=student.pop('data_preprocessor'),
        ),
        semi_train_cfg=dict(
            freeze_teacher=True,
            pseudo_label_initial_score_thr=0.1,
            rpn_pseudo_thr=0.1,
            cls_pseudo_thr=0.1,
            reg_pseudo_thr=0.5,
            jitter_times=3,
            jitter_scale=0.06,
        ),
        semi_test_cfg=dict(predict_on='teacher'),
    )


class MadeData(Dataset):
    """Four made pictures with a box each, in the three branches."""

    metainfo = dict(classes=('a', 'b'))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        source = torch.Generator().manual_seed(index)
        branches = ('sup', 'unsup_teacher', 'unsup_student')
        return dict(
            inputs={
                branch: torch.randint(
                    256, (3, 64, 64), generator=source
                ).byte()
                for branch in branches
            },
            data_samples={branch: sample() for branch in branches},
        )


def sample():
    sample = DetDataSample(
        metainfo=dict(
            img_shape=(64, 64),
            ori_shape=(64, 64),
            pad_shape=(64, 64),
            batch_input_shape=(64, 64),
            scale_factor=(1.0, 1.0),
            homography_matrix=torch.eye(3).numpy(),
        )
    )
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8.0, 40.0, 48.0]]), labels=torch.tensor([1])
    )
    return sample


def write_base(path):
    """Write weights of the small ResNet to a file."""
    torch.manual_seed(0)
    backbone = MODELS.build(RESNET)
    backbone.init_weights()
    torch.save(backbone.state_dict(), path)
    return path


def runner(work_dir, model, **options):
    """Build a runner of two iterations over the made data."""
    register_all_modules(init_default_scope=False)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    settings = dict(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
            dataset=MadeData(),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(
            type='OptimWrapper',
            constructor='mmflora.PEFTOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.05),
        ),
        default_hooks=dict(
            checkpoint=dict(type='mmflora.AdapterCheckpointHook')
        ),
        custom_hooks=[
            dict(type='mmflora.AdapterGradientHook'),
            dict(type='mmdet.MeanTeacherHook', momentum=0.5),
        ],
        randomness=dict(seed=0),
        log_level='WARNING',
        default_scope='mmdet',
        experiment_name=f'semi_{work_dir}'.replace('/', '_'),
    )
    return Runner(**(settings | options))
