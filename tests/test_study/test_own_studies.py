"""The files of studies/: they are read, and their models are built."""

import importlib.util
import json

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


@pytest.fixture
def prepare():
    spec = importlib.util.spec_from_file_location(
        'prepare', STUDIES / 'prepare.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_data_sets_that_are_there_are_prepared(
    prepare, tmp_path, monkeypatch, capsys
):
    data, out = tmp_path / 'data', tmp_path / 'out'
    monkeypatch.setattr(prepare, 'write_base', lambda path: None)
    monkeypatch.setattr('sys.argv', ['', str(data), '--out', str(out)])
    with pytest.raises(SystemExit, match='has none of bccd, nuclei'):
        prepare.main()
    for folder in ('bccd', 'boxes', 'nuclei/images'):
        (data / folder).mkdir(parents=True)
    nuclei = dict(
        images=[
            dict(id=1, file_name='a.png', width=256, height=256),
            dict(id=2, file_name='b.png', width=320, height=256),
        ],
        annotations=[dict(id=1, image_id=2), dict(id=2, image_id=1)],
        categories=[dict(id=1, name='nucleus')],
    )
    for split in ('train', 'val'):
        (data / f'nuclei/{split}.json').write_text(json.dumps(nuclei))
    prepare.main()
    said = capsys.readouterr().out
    assert 'camvid is left out' in said
    assert 'lacks nuclei/test.json' in said
    assert sorted(path.name for path in out.iterdir()) == ['bccd', 'boxes']
    (data / 'nuclei/test.json').write_text(json.dumps(nuclei))
    prepare.main()
    assert 'nuclei' not in capsys.readouterr().out
    tissue = json.loads((out / 'nuclei/test_tissue.json').read_text())
    assert [image['id'] for image in tissue['images']] == [2]
    assert [one['id'] for one in tissue['annotations']] == [1]


def test_keys_of_the_published_weights(prepare):
    names = {
        '_conv_stem.weight': 'conv_stem.weight',
        '_bn1.bias': 'bn2.bias',
        '_fc.bias': 'classifier.bias',
        '_blocks.0._project_conv.weight': 'blocks.0.0.conv_pw.weight',
        '_blocks.1._expand_conv.weight': 'blocks.1.0.conv_pw.weight',
        '_blocks.4._bn2.running_var': 'blocks.2.1.bn3.running_var',
    }
    assert prepare.timm_keys(names, [1, 2, 2]) == names
