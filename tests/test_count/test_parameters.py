"""Counts by component, predicted file sizes, the table, and the search."""

import io

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmflora.checkpoint.state import adapter_state_dict
from mmflora.config.command_line import parse_count
from mmflora.count.budget import rank_for_budget
from mmflora.count.parameters import build_on_meta, count_model
from mmflora.count.table import COLUMNS, count_table, read_beside
from mmflora.models import ConvNeXt, FLoRAConvNeXt


class Detector(nn.Module):
    """A backbone with something before and behind the neck."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Conv2d(320, 8, 1)
        self.bbox_head = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
        self.bbox_head[0].bias.requires_grad_(False)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp('base') / 'base.pth'
    torch.save(ConvNeXt('convnextv2_atto').state_dict(), path)
    return str(path)


@pytest.fixture
def flora(base):
    init = dict(type='Pretrained', checkpoint=base)
    return FLoRAConvNeXt('convnextv2_atto', init_cfg=init)


def config(**adapter):
    backbone = dict(type='mmflora.PEFTConvNeXt', arch='convnextv2_atto')
    backbone['adapter'] = adapter or None
    return Config(dict(default_scope='mmdet', model=dict(backbone=backbone)))


def bytes_of(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.tell()


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('12.94M', 12.94e6),
        ('200k', 2e5),
        ('0.2M', 2e5),
        ('1.5G', 1.5e9),
        ('.5k', 500),
        (' 4857349 ', 4857349),
    ],
)
def test_numbers_of_parameters(text, value):
    assert parse_count(text, '--budget') == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    'text', ['', 'M', '0', '0.0M', '-1M', '12,94M', '1e6', 'nan', '12 M']
)
def test_what_is_no_number_of_parameters(text):
    with pytest.raises(ValueError, match=r'--budget: .* no number .*12\.94M'):
        parse_count(text, '--budget')


def test_an_endless_number_is_refused():
    with pytest.raises(ValueError, match='no number of parameters'):
        parse_count('9' * 400, '--budget')


def test_every_component_is_counted(flora):
    counted = count_model(Detector(flora))
    stock = sum(p.numel() for p in ConvNeXt('convnextv2_atto').parameters())
    adapters = sum(
        parameter.numel()
        for name, parameter in flora.named_parameters()
        if '.adapter.' in name
    )
    assert adapters > 300_000
    assert counted.method == adapters
    assert counted.new == 2 * (40 + 80 + 160 + 320)
    assert counted.base == stock - counted.new
    assert counted.neck == 320 * 8 + 8
    assert counted.heads == 8 * 4 + 2 * 4, 'a frozen bias does not train'
    assert counted.total == stock + adapters + counted.neck + 44
    trained = [p for p in Detector(flora).parameters() if p.requires_grad]
    assert counted.trainable == sum(p.numel() for p in trained)


def test_file_sizes_are_those_of_files(flora):
    detector = Detector(flora)
    counted = count_model(detector)
    with adapter_state_dict():
        state = detector.state_dict()
    exact = sum(v.numel() * v.element_size() for v in state.values())
    assert counted.file_bytes == exact
    assert counted.file_bytes == pytest.approx(bytes_of(state), rel=0.1)
    plain = Detector(ConvNeXt('convnextv2_atto')).state_dict()
    exact = sum(v.numel() * v.element_size() for v in plain.values())
    assert counted.full_bytes == exact


def test_a_plain_backbone_trains_whole():
    counted = count_model(Detector(ConvNeXt('convnextv2_atto')))
    assert counted.method == counted.base == 3_386_760
    assert counted.new == 1200
    assert counted.file_bytes == counted.full_bytes


def test_a_backbone_alone_counts_as_in_its_model(flora):
    whole, alone = count_model(Detector(flora)), count_model(flora)
    assert (alone.base, alone.method, alone.new) == (
        whole.base,
        whole.method,
        whole.new,
    )
    assert alone.neck == alone.heads == 0


def test_meta_counts_are_the_real_ones(flora):
    cfg = config(type='FLoRA')
    meta = build_on_meta(cfg, 'model.backbone')
    assert all(parameter.is_meta for parameter in meta.parameters())
    assert count_model(meta) == count_model(flora)


def test_building_leaves_the_config_as_it_was():
    cfg = config(type='FLoRA')
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='x.pth')
    before = cfg.to_dict()
    build_on_meta(cfg, 'model.backbone')
    assert cfg.to_dict() == before


def test_a_config_without_a_model_is_refused():
    with pytest.raises(ValueError, match=r'no `model`: .*_base_'):
        build_on_meta(Config(dict(default_scope='mmdet')))


@pytest.mark.parametrize('wanted', [5, 16, 40])
def test_the_rank_of_a_budget_is_found(wanted):
    cfg = config(type='FLoRA', kernel_rank=1)
    cfg.model.backbone.adapter.rank = wanted
    budget = count_model(build_on_meta(cfg, 'model.backbone')).method
    cfg.model.backbone.adapter.rank = 7
    choice = rank_for_budget(cfg, budget + 10)
    assert choice.rank == wanted
    assert list(choice.counts) == [wanted - 1, wanted, wanted + 1]
    assert choice.counts[wanted] == budget
    assert cfg.model.backbone.adapter.rank == 7
    lines = str(choice).splitlines()
    assert lines[0].startswith(f'FLoRA: rank {wanted} comes nearest to ')
    assert [line[0] for line in lines[1:]] == [' ', '*', ' ']
    assert f'{budget:,}' in lines[2]


def test_the_nearer_of_two_ranks_is_taken():
    cfg = config(type='FLoRA')
    counts = rank_for_budget(cfg, 1e5).counts
    (low, at_low), (high, at_high) = sorted(counts.items())[:2]
    third = (at_high - at_low) / 3
    assert rank_for_budget(cfg, at_low + third).rank == low
    assert rank_for_budget(cfg, at_high - third).rank == high


def test_budgets_beyond_all_ranks():
    cfg = config(type='FLoRA')
    lowest = rank_for_budget(cfg, 10)
    assert (lowest.rank, list(lowest.counts)) == (1, [1, 2])
    highest = rank_for_budget(cfg, 1e12)
    below, best, above = highest.counts.values()
    assert below < best == above, 'the smallest rank that holds everything'


def test_a_budget_needs_an_adapter():
    with pytest.raises(ValueError, match='0 frozen parts with an adapter'):
        rank_for_budget(config(), 1e6)


def test_a_refusal_of_every_rank_is_told():
    with pytest.raises(ValueError, match='scale must be finite'):
        rank_for_budget(config(type='FLoRA', scale=0.0), 1e6)


def test_table(flora):
    counted = count_model(Detector(flora))
    text = count_table({'one': counted, 'other_config': counted})
    header, rule, first, second = text.splitlines()
    assert len({len(line) for line in (header, rule, first, second)}) == 1
    cells = [cell.strip() for cell in first.strip('|').split('|')]
    row = dict(zip(COLUMNS, cells, strict=True))
    assert row['config'] == 'one'
    assert row['backbone: method'] == f'{counted.method:,}'
    assert row['% of base'] == f'{100 * counted.method / counted.base:.2f}'
    assert row['file, MB'] == f'{counted.file_bytes / 1e6:.1f}'
    assert second.startswith('| other_config |')


def test_published_figures_stand_beside(flora, tmp_path):
    counted = count_model(flora)
    figure = counted.method / 1.25
    path = tmp_path / 'figures.csv'
    path.write_text(f'config,trained\n*_flora,{figure:.0f}\n*_frozen,\n')
    figures = read_beside(str(path))
    names = ('a_flora', 'b_frozen', 'c_none')
    text = count_table(dict.fromkeys(names, counted), figures)
    rows = [line.strip('| ').split(' | ') for line in text.splitlines()]
    assert [cell.strip() for cell in rows[0][-2:]] == [
        'published',
        'ours, off by %',
    ]
    ends = [[cell.strip() for cell in row[-2:]] for row in rows[2:]]
    assert ends == [[f'{figure:.0f}', '+25.00'], ['–', '–'], ['–', '–']]


def test_published_shares_are_of_the_base(flora, tmp_path):
    counted = count_model(flora)
    share = 100 * counted.method / counted.base / 0.8
    path = tmp_path / 'shares.csv'
    path.write_text(f'config,trained\n*_flora,{share:.6f}%\n')
    text = count_table({'a_flora': counted}, read_beside(str(path)))
    cells = [cell.strip() for cell in text.splitlines()[2].split('|')]
    assert cells[-3:-1] == [f'{share:.6f}%', '-20.00']


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('config\na\n', 'it needs config and trained'),
        ('config,trained\na_b,x%\n', "row 'a_b': 'x' is no number"),
        ('config,trained\na_b,much\n', "row 'a_b': 'much' is no number"),
        ('', 'it needs config and trained'),
    ],
)
def test_unreadable_figures(tmp_path, text, message):
    path = tmp_path / 'figures.csv'
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_beside(str(path))


def test_missing_figures():
    with pytest.raises(FileNotFoundError, match=r"no file 'nix\.csv'"):
        read_beside('nix.csv')
