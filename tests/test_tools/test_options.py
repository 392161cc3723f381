"""What each option of the tools changes in the config."""

import pytest
import torch
from mmengine.config import Config

from .conftest import CONFIGS, ROOT

FLORA = CONFIGS / 'flora'
MASK_RCNN = FLORA / 'mask-rcnn_convnextv2-atto_flora-r16_shapes.py'
UPERNET = FLORA / 'upernet_convnextv2-atto_flora-r16_shapes-128x128.py'
ORIENTED = FLORA / 'oriented-rcnn-le90_convnextv2-atto_flora-r16_shapes.py'
BASE = 'work_dirs/shapes_base/base.pth'
BOXES_ONLY = 'model.roi_head=None'


@pytest.fixture
def prepare_train(train_tool, workspace, monkeypatch):
    monkeypatch.chdir(workspace.folder)
    monkeypatch.setenv('LOCAL_RANK', '0')

    def prepare(config, *options):
        args = train_tool.parse_args([str(config), *options])
        return train_tool.prepare(args)

    return prepare


@pytest.fixture
def prepare_test(test_tool, workspace, monkeypatch):
    monkeypatch.chdir(workspace.folder)
    monkeypatch.setenv('LOCAL_RANK', '0')

    def prepare(config, *options):
        args = test_tool.parse_args([str(config), BASE, *options])
        return test_tool.prepare(args)

    return prepare


def test_amp_goes_around_the_backbone(prepare_train):
    cfg = prepare_train(MASK_RCNN)
    assert cfg.model.backbone.get('autocast') is None
    cfg = prepare_train(MASK_RCNN, '--amp')
    assert cfg.model.backbone.autocast == 'bfloat16'
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    half = 'model.backbone.autocast=float16'
    cfg = prepare_train(MASK_RCNN, '--amp', '--cfg-options', half)
    assert cfg.model.backbone.autocast == 'float16'


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_amp_of_another_backbone(train_tool, monkeypatch, device):
    monkeypatch.setattr('mmengine.device.get_device', lambda: device)
    cfg = Config(
        dict(
            model=dict(backbone=dict(type='mmdet.ResNet')),
            optim_wrapper=dict(type='OptimWrapper'),
        )
    )
    if device == 'cpu':
        with pytest.raises(ValueError, match='which needs a GPU'):
            train_tool.enable_amp(cfg)
    else:
        train_tool.enable_amp(cfg)
        wrapper = cfg.optim_wrapper
        assert wrapper == dict(type='AmpOptimWrapper', loss_scale='dynamic')


def test_auto_scale_lr(prepare_train, train_tool):
    assert not prepare_train(MASK_RCNN).auto_scale_lr.enable
    assert prepare_train(MASK_RCNN, '--auto-scale-lr').auto_scale_lr.enable
    with pytest.raises(ValueError, match='base_batch_size=16'):
        train_tool.enable_auto_scale_lr(Config(dict()))


def test_resume(prepare_train):
    assert prepare_train(MASK_RCNN).resume is False
    cfg = prepare_train(MASK_RCNN, '--resume')
    assert (cfg.resume, cfg.load_from) == (True, None)
    cfg = prepare_train(MASK_RCNN, '--resume', BASE)
    assert (cfg.resume, cfg.load_from) == (True, BASE)
    with pytest.raises(FileNotFoundError, match='^--resume: .*nix'):
        prepare_train(MASK_RCNN, '--resume', 'nix.pth')


@pytest.fixture
def deepspeed_folder(workspace, tmp_path):
    """A checkpoint as mmflora.DeepSpeedStrategy lays it out."""
    folder = tmp_path / 'epoch_1.pth'
    folder.mkdir()
    checkpoint = torch.load(workspace.folder / BASE)
    torch.save(checkpoint, folder / 'weights.pth')
    for name in (
        'mp_rank_00_model_states.pt',
        'zero_pp_rank_0_mp_rank_00_optim_states.pt',
    ):
        torch.save(dict(ds_version='0.19.8'), folder / name)
    return folder


def test_a_folder_of_deepspeed_is_tested_and_resumed(
    prepare_train, prepare_test, test_tool, deepspeed_folder
):
    args = test_tool.parse_args([str(MASK_RCNN), str(deepspeed_folder)])
    weights = str(deepspeed_folder / 'weights.pth')
    assert test_tool.prepare(args).load_from == weights
    engine = (
        *('--cfg-options', 'runner_type=FlexibleRunner'),
        'strategy.type=mmflora.DeepSpeedStrategy',
    )
    # As the shell completes the name of a folder.
    words = ('--resume', f'{deepspeed_folder}/')
    cfg = prepare_train(MASK_RCNN, *words, *engine)
    assert (cfg.resume, cfg.load_from) == (True, str(deepspeed_folder))
    with pytest.raises(ValueError, match=f'load_from={weights}'):
        prepare_train(MASK_RCNN, *words)


def test_weights_in_a_folder_of_deepspeed_are_checked(
    test_tool, prepare_test, deepspeed_folder
):
    file = deepspeed_folder / 'weights.pth'
    file.write_bytes(file.read_bytes()[:1000])
    args = test_tool.parse_args([str(MASK_RCNN), str(deepspeed_folder)])
    with pytest.raises(ValueError, match=r'^checkpoint: .*truncated'):
        test_tool.prepare(args)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r'weights\.pth'):
        test_tool.prepare(args)


def test_no_validate(prepare_train):
    cfg = prepare_train(MASK_RCNN, '--no-validate')
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None


def test_show_dir_in_each_dialect(prepare_test):
    cfg = prepare_test(MASK_RCNN, '--show-dir', 'drawn')
    hook = cfg.default_hooks.visualization
    assert (hook.draw, hook.test_out_dir) == (True, 'drawn')
    cfg = prepare_test(UPERNET, '--show-dir', 'drawn')
    assert cfg.default_hooks.visualization.draw
    assert cfg.visualizer.save_dir == 'drawn'


def test_show(prepare_test):
    cfg = prepare_test(MASK_RCNN, '--show', '--wait-time', '0.5')
    hook = cfg.default_hooks.visualization
    assert (hook.draw, hook.show, hook.wait_time) == (True, True, 0.5)
    without = 'default_hooks.visualization=None'
    with pytest.raises(ValueError, match='visualization hook'):
        prepare_test(MASK_RCNN, '--show', '--cfg-options', without)


@pytest.mark.parametrize(
    ('config', 'kind'),
    [
        (MASK_RCNN, 'mmdet.DumpDetResults'),
        (ORIENTED, 'DumpResults'),
        (UPERNET, 'DumpResults'),
    ],
)
def test_out_dumps_predictions(prepare_test, config, kind):
    cfg = prepare_test(config, '--out', 'predictions.pkl')
    metric, dump = cfg.test_evaluator
    assert metric.type != kind
    assert dump == dict(type=kind, out_file_path='predictions.pkl')


def test_out_folder_is_for_label_maps(prepare_test):
    cfg = prepare_test(UPERNET, '--out', 'maps')
    assert cfg.test_evaluator[0].output_dir == 'maps'
    with pytest.raises(ValueError, match=r"--out is 'maps': .*\.pkl"):
        prepare_test(MASK_RCNN, '--out', 'maps')


def test_tta_in_each_dialect(prepare_test):
    cfg = prepare_test(MASK_RCNN, '--tta', '--cfg-options', BOXES_ONLY)
    assert cfg.tta_model.type == 'DetTTAModel'
    flips, (pack,) = cfg.test_dataloader.dataset.pipeline[-1].transforms
    assert [flip.prob for flip in flips] == [1.0, 0.0]
    assert pack.meta_keys[-2:] == ('flip', 'flip_direction')
    with pytest.raises(ValueError, match='has a mask head'):
        prepare_test(MASK_RCNN, '--tta')
    cfg = prepare_test(UPERNET, '--tta')
    assert cfg.tta_model.type == 'SegTTAModel'
    pipeline = cfg.test_dataloader.dataset.pipeline
    assert pipeline[-1].type == 'TestTimeAug'
    with pytest.raises(ValueError, match='no tta_model and no tta_pipeline'):
        prepare_test(ORIENTED, '--tta')


def test_options_that_openmmlab_users_know(any_tool):
    args = any_tool.parse_args(
        ['c.py', 'x.pth'][: 1 + ('test' in any_tool.__name__)]
        + ['--work-dir', 'w', '--launcher', 'slurm', '--local-rank', '1']
        + ['--cfg-options', 'a.b=1', 'c=x,y']
    )
    assert args.cfg_options == {'a.b': 1, 'c': ['x', 'y']}
    assert (args.work_dir, args.launcher, args.local_rank) == ('w', 'slurm', 1)


@pytest.mark.parametrize('name', ['train', 'test'])
def test_bad_input_is_one_line_and_no_traceback(workspace, name):
    tool = ROOT / 'tools' / f'{name}.py'
    near = MASK_RCNN.with_stem(MASK_RCNN.stem.replace('shapes', 'shape'))
    words = [tool, near, 'nix.pth'][: 2 + (name == 'test')]
    # A new process for one: what the imports say comes before.
    code, text = workspace.start(*words, new=name == 'train').finish()
    assert code == 1
    assert text.startswith('error: Config not found: ')
    assert str(MASK_RCNN) in text
    assert 'Traceback' not in text


@pytest.mark.parametrize(
    ('script', 'usage'),
    [
        ('dist_train.sh', 'CONFIG GPUS'),
        ('dist_test.sh', 'CONFIG CHECKPOINT GPUS'),
        ('slurm_train.sh', 'PARTITION JOB_NAME CONFIG WORK_DIR'),
        ('slurm_test.sh', 'PARTITION JOB_NAME CONFIG CHECKPOINT'),
    ],
)
def test_scripts_say_how_to_call_them(workspace, script, usage):
    text = workspace.run(ROOT / 'tools' / script, code=2)
    assert usage in text


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('train', '--work-dir=given --launcher=slurm --amp'),
        ('test', 'given --launcher=slurm --amp'),
    ],
)
def test_slurm_scripts_hand_everything_on(workspace, tmp_path, name, words):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    text = workspace.run(
        *(ROOT / 'tools' / f'slurm_{name}.sh', 'part', 'job', 'c.py'),
        *('given', '--amp'),
        PATH=f'{tmp_path}:/usr/bin:/bin',
        GPUS='4',
        SRUN_ARGS='--qos high',
    )
    assert '--partition=part --job-name=job --gres=gpu:4' in text
    assert '--ntasks=4 --ntasks-per-node=4' in text
    assert f'--qos high python -u {ROOT}/tools/{name}.py c.py {words}' in text
