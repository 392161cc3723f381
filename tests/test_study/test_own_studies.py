"""The files of studies/: they are read, and their models are built."""

import importlib.util

import pytest
from mmengine.config import Config

from mmflora.config.peft.entry import adapt_config
from mmflora.count.parameters import build_on_meta, count_model
from mmflora.study.study_file import read_study

from .conftest import ROOT

STUDIES = ROOT / 'studies'
TASKS = sorted(path.stem for path in STUDIES.glob('tasks/*.py'))
TASKS.remove('lite0')


@pytest.mark.parametrize(
    ('name', 'methods'),
    [
        ('real_images', 15),
        ('domain_gap', 6),
        ('rank_sweep', 11),
        ('scale_sweep', 16),
        ('backbone_rate', 10),
    ],
)
def test_a_study_is_read(name, methods):
    study = read_study(str(STUDIES / f'{name}.py'))
    for task in study.tasks.values():
        assert (STUDIES / task.config).is_file()
    assert len(study.methods) == methods
    assert len(study.seeds) == 5


@pytest.mark.parametrize('name', TASKS)
def test_a_task_is_built(name):
    cfg = Config.fromfile(STUDIES / f'tasks/{name}.py')
    adapted, _ = adapt_config(cfg, 'flora-r16', weights=False)
    count = count_model(build_on_meta(adapted))
    assert count.base == 2_958_848, 'EfficientNet-Lite0 without classifier'
    assert count.method > 0


def test_keys_of_the_published_weights():
    spec = importlib.util.spec_from_file_location(
        'prepare', STUDIES / 'prepare.py'
    )
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    names = {
        '_conv_stem.weight': 'conv_stem.weight',
        '_bn1.bias': 'bn2.bias',
        '_fc.bias': 'classifier.bias',
        '_blocks.0._project_conv.weight': 'blocks.0.0.conv_pw.weight',
        '_blocks.1._expand_conv.weight': 'blocks.1.0.conv_pw.weight',
        '_blocks.4._bn2.running_var': 'blocks.2.1.bn3.running_var',
    }
    assert prepare.timm_keys(names, [1, 2, 2]) == names
