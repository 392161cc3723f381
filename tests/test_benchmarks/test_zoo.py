"""The zoos of the toolkits build adapted; a sample of them by default."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.zoo import page, sweep  # noqa: E402
from benchmarks.zoo.builds import check_build  # noqa: E402
from benchmarks.zoo.child import run_in_child  # noqa: E402
from benchmarks.zoo.configs import ZooConfig, select, zoo_configs  # noqa: E402
from benchmarks.zoo.results import Results, read_results  # noqa: E402
from benchmarks.zoo.text_model import write_text_model  # noqa: E402
from mmflora.config.build import register_toolkit  # noqa: E402

METHOD = 'flora-r16'
# One of each backbone, and of each place where one stands.
SAMPLE = (
    'mmdet::centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py',
    'mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py',
    'mmdet::detectors/htc_r50-sac_1x_coco.py',
    'mmdet::efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py',
    'mmdet::gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py',
    'mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py',
    'mmdet::mm_grounding_dino/grounding_dino_swin-t_pretrain_obj365.py',
    'mmdet::pvt/retinanet_pvt-t_fpn_1x_coco.py',
    'mmdet::pvt/retinanet_pvtv2-b0_fpn_1x_coco.py',
    'mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_'
    'test-mot17halfval.py',
    'mmdet::regnet/retinanet_regnetx-3.2GF_fpn_1x_coco.py',
    'mmdet::resnest/faster-rcnn_s50_fpn_syncbn-backbone+head_'
    'ms-range-1x_coco.py',
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'mmdet::simple_copy_paste/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-'
    'all_32xb2-ssj-90k_coco.py',
    'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_'
    'semi-0.1-coco.py',
    'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py',
    'mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py',
    'mmdet::wider_face/ssd300_8xb32-24e_widerface.py',
    'mmdet::yolo/yolov3_d53_8xb8-ms-608-273e_coco.py',
    'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
    'mmrotate::oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota.py',
    'mmrotate::rotated_rtmdet/rotated_rtmdet_s-3x-dota.py',
    'mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640_ms.py',
    'mmseg::bisenetv1/bisenetv1_r18-d32_4xb4-160k_coco-stuff164k-512x512.py',
    'mmseg::cgnet/cgnet_fcn_4xb8-60k_cityscapes-512x1024.py',
    'mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py',
    'mmseg::erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py',
    'mmseg::icnet/icnet_r18-d8-in1k-pre_4xb2-80k_cityscapes-832x832.py',
    'mmseg::mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py',
    'mmseg::mobilenet_v2/mobilenet-v2-d8_fcn_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::mobilenet_v3/mobilenet-v3-d8-scratch-s_lraspp_4xb4-320k_'
    'cityscapes-512x1024.py',
    'mmseg::ocrnet/ocrnet_hr18s_4xb4-40k_voc12aug-512x512.py',
    'mmseg::pidnet/pidnet-m_2xb6-120k_1024x1024-cityscapes.py',
    'mmseg::san/san-vit-b16_coco-stuff164k-640x640.py',
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    'mmseg::segnext/segnext_mscan-s_1xb16-adamw-160k_ade20k-512x512.py',
    'mmseg::stdc/stdc1_in1k-pre_4xb12-80k_cityscapes-512x1024.py',
    'mmseg::twins/twins_pcpvt-b_fpn_fpnhead_8xb4-80k_ade20k-512x512.py',
    'mmseg::twins/twins_svt-s_uperhead_8xb2-160k_ade20k-512x512.py',
    'mmseg::unet/unet-s5-d16_deeplabv3_4xb4-40k_hrf-256x256.py',
    'mmseg::vit/vit_deit-b16_mln_upernet_8xb2-160k_ade20k-512x512.py',
)
# What these need is no part of the environment.
WITHOUT = {'mmdet::convnext': 'mmpretrain'}


@pytest.fixture(scope='module')
def text_model(tmp_path_factory):
    for toolkit in ('mmdet', 'mmseg', 'mmrotate'):
        register_toolkit(Config(dict(default_scope=toolkit)))
    return write_text_model(tmp_path_factory.mktemp('text'))


@pytest.fixture
def here(monkeypatch):
    """Come back from the folder in which a zoo is read."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope='module')
def committed():
    """Return what docs/zoo.json says of each config and family."""
    found = json.loads((ROOT / 'docs' / 'zoo.json').read_text())
    columns = found['columns']
    found['configs'] = {
        name: dict(zip(columns, row, strict=True))
        for name, row in found['configs'].items()
    }
    return found


@pytest.mark.parametrize('name', SAMPLE)
def test_builds_as_the_page_says(name, text_model, here, committed):
    result = check_build(ZooConfig.of(name), METHOD, text_model)
    needs = WITHOUT.get(ZooConfig.of(name).family)
    if needs:
        assert needs in result['stock']
        return
    assert result['stock'] is True
    assert result['adapted'] is True
    assert result['keys'] is True
    assert result['layers'] > 0
    assert page.row(result) == page.row(committed['configs'][name])


def test_takes_a_step(text_model, here):
    from benchmarks.zoo.steps import check_step

    name = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
    result = check_step(ZooConfig.of(name), METHOD, text_model)
    assert result['loss'] > 0
    assert result['adapters'] > 30
    assert result['unlearned'] == {}


def test_a_changed_base_and_an_idle_adapter_are_found(text_model, here):
    import torch

    from benchmarks.zoo import steps
    from mmflora.models.frozen import build_peft_backbone

    torch.manual_seed(0)
    backbone = build_peft_backbone(
        dict(type='mmdet.ResNet', depth=18),
        peft=dict(adapter=dict(type='FLoRA', rank=2), allow_random_base=True),
    )
    state = {k: v.clone() for k, v in backbone.state_dict().items()}
    record = backbone.base_record
    record.set_base(dict(checkpoint='base.pth'), 'x', 'init_cfg')
    base = {k: v for k, v in state.items() if k in record.base_keys}
    steps._check_bases(backbone, {'base.pth': base})
    with pytest.raises(AssertionError, match=r'has the base base\.pth'):
        steps._check_bases(backbone, {'other.pth': base})
    noted = steps._note_gradients(backbone)
    backbone(torch.randn(1, 3, 32, 32))[0].sum().backward()
    idle = steps._without_gradient(backbone, noted)
    assert 'conv1' not in idle
    assert 'layer4.0.conv1' in idle  # behind the output that counts
    with torch.no_grad():
        backbone.layer1[0].conv1.weight.view(-1)[0] += 1e-6
    with pytest.raises(AssertionError, match=r'layer1\.0\.conv1\.weight'):
        steps._check_bases(backbone, {'base.pth': base})


@pytest.mark.parametrize(
    ('function', 'seconds', 'error'),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), 60, 'SIGKILL'),
        (lambda: time.sleep(600), 1, 'longer than 1 s'),
        (lambda: dict(bytes(2**31)), 60, 'MemoryError'),
        (lambda: dict(value=1 // 0), 60, 'ZeroDivisionError'),
    ],
    ids=['crash', 'time', 'memory', 'error'],
)
def test_what_goes_wrong_in_a_child_is_a_result(function, seconds, error):
    result = run_in_child(function, seconds, gigabytes=1.5)
    assert error in f'{result["kind"]}: {result["error"]}'
    assert run_in_child(lambda: dict(value=2), 60, 64)['value'] == 2


def test_results_go_on_where_they_were_cut(tmp_path):
    results = Results(tmp_path, 'builds', METHOD, (1, 2))
    results.add('mmdet::a/a.py', dict(stock=True))
    results.add('mmdet::a/b.py', dict(stock=True))
    results.file.write_text(results.file.read_text()[:-3])
    again = Results(tmp_path, 'builds', METHOD, (1, 2), resume=True)
    assert list(again.done) == ['mmdet::a/a.py']
    again.add('mmdet::a/b.py', dict(stock='no'))
    other = Results(tmp_path, 'builds', METHOD, (2, 2))
    other.add('mmdet::b/c.py', dict(stock=True))
    method, found = read_results(tmp_path, 'builds')
    assert (method, len(found)) == (METHOD, 3)
    assert found['mmdet::a/b.py']['stock'] == 'no'
    with pytest.raises(ValueError, match='holds results of flora-r16'):
        Results(tmp_path, 'builds', 'lora-r8', (1, 2), resume=True)
    with pytest.raises(FileNotFoundError, match='run the sweep'):
        read_results(tmp_path, 'steps')


def test_shards_and_names_choose_configs():
    every = zoo_configs()
    assert len(every) > 1500
    parts = [select(every, shard=(index, 3)) for index in (1, 2, 3)]
    assert sorted(sum(parts, [])) == every
    assert {c.family for c in select(every, 'mmdet::dino/*')} == {
        'mmdet::dino'
    }
    with pytest.raises(ValueError, match='no config'):
        select(every, 'nowhere')


def test_the_page_counts_what_was_found():
    build = dict(stock=True, adapted=True, keys=True, layers=5, trainable=9)
    build |= dict(left_out={'no class': 2}, parameters=3)
    builds = {
        'mmdet::a/a.py': build,
        'mmdet::a/b.py': build | dict(adapted='Error: no', left_out={}),
        'mmseg::b/c.py': dict(stock='needs x', adapted=''),
        'mmseg::c/d.py': build | dict(keys='1 gone, such as w'),
    }
    steps = {
        'mmdet::a': dict(
            step=True,
            config='mmdet::a/a.py',
            loss=1.0,
            unlearned={'adapter alone': [1, 'conv']},
        ),
        'mmseg::b': dict(step='no config of it builds here'),
        'mmseg::c': dict(step=sweep.OURS + 'no', config='mmseg::c/d.py'),
    }
    text = page.page(METHOD, builds, steps)
    assert '**2 of the 3 configs' in text
    assert '2 families with such configs,\n0 take' in text
    assert '2 fail by mmflora; 0 were not run' in text
    for line in (
        '| a | 2 | 2 | 1 | same | 5 | 2 | 0.0M | adapters without gradient',
        '| c | 1 | 1 | 1 | differ | 5 | 2 | 0.0M | see below |',
        '- `mmdet::a/b.py`: Error: no',
        '- `mmseg::b/c.py`: needs x',
        '- `mmseg::c/d.py`: ours: no',
        '- 4 layers in 2 configs: no class',
    ):
        assert line in text


@pytest.mark.slow
def test_every_config_builds_as_the_page_says(tmp_path, text_model, committed):
    results = Results(tmp_path, 'builds', METHOD)
    sweep.sweep_builds(zoo_configs(), results, METHOD, text_model)
    found = {name: page.row(each) for name, each in results.done.items()}
    assert found == {
        name: page.row(each) for name, each in committed['configs'].items()
    }
    built = [each for each in found.values() if each['stock'] is True]
    adapted = [each for each in built if each['adapted'] is True]
    assert len(adapted) >= 0.99 * len(built)
    assert all(each['keys'] is True for each in adapted)


@pytest.mark.slow
def test_every_family_takes_a_step(tmp_path, text_model, committed):
    families = sweep.candidates(committed['configs'])
    results = Results(tmp_path, 'steps', METHOD)
    sweep.sweep_families(families, results, METHOD, text_model)
    for family, result in results.done.items():
        step = result['step']
        assert step is True or not step.startswith(sweep.OURS), family
        assert 'adapter alone' not in result.get('unlearned', {}), family
