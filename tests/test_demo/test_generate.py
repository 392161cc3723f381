import hashlib
import json
import shutil
import threading

import pytest

from demo.shapes import (
    CLASSES,
    DOMAINS,
    FORMATS,
    generate,
    read_counts,
    write_shapes,
)

SMALL = dict(num_train=3, num_val=2, image_size=64)


def digests(folder, pattern='**/*'):
    return {
        str(path.relative_to(folder)): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in folder.glob(pattern)
        if path.is_file() and path.name != '.lock'
    }


def forbid(*_):
    raise AssertionError('drawn again')


@pytest.fixture
def no_drawing(monkeypatch):
    monkeypatch.setattr(generate, 'draw_scene', forbid)


@pytest.mark.parametrize('domain', DOMAINS)
def test_same_arguments_give_the_same_bytes(tmp_path, domain):
    for name in 'ab':
        write_shapes(tmp_path / name, domain, **SMALL)
    files = digests(tmp_path / 'a')
    assert files == digests(tmp_path / 'b')
    # COCO: 2 annotation files; DOTA and ADE20K: 2 files for each picture;
    # one manifest each.
    assert len(files) == (5 + 2) + 10 + 10 + 3


def test_layout(tmp_path):
    roots = write_shapes(tmp_path, 'source', **SMALL)
    home = tmp_path / 'source'
    assert roots == dict(
        coco=home / 'coco',
        dota=home / 'split_ss_dota',
        ade20k=home / 'ade/ADEChallengeData2016',
    )
    files = set(digests(home))
    assert {
        'coco/annotations/instances_train2017.json',
        'coco/annotations/instances_val2017.json',
        'coco/train2017/000000000003.jpg',
        'coco/val2017/000000000002.jpg',
        'split_ss_dota/trainval/images/P0003__64__0___0.png',
        'split_ss_dota/trainval/annfiles/P0003__64__0___0.txt',
        'split_ss_dota/val/annfiles/P0002__64__0___0.txt',
        'ade/ADEChallengeData2016/images/training/ADE_train_00000003.jpg',
        'ade/ADEChallengeData2016/annotations/validation/ADE_val_00000002.png',
    } <= files
    assert not (home / '.staging').exists()


def test_domains_splits_and_seeds_have_their_own_streams(tmp_path):
    pictures = []
    for domain in DOMAINS:
        for seed in (0, 1):
            roots = write_shapes(
                tmp_path / str(seed),
                domain,
                num_train=6,
                num_val=6,
                image_size=64,
                seed=seed,
                formats=['coco'],
            )
            pictures += digests(roots['coco'], '*2017/*.jpg').values()
    assert len(set(pictures)) == len(pictures) == 2 * 2 * 12


def test_domains_of_one_look_still_differ(tmp_path, monkeypatch):
    monkeypatch.setitem(DOMAINS, 'target', DOMAINS['source'])
    first, second = (
        write_shapes(tmp_path, domain, **SMALL)['dota'] / 'trainval/annfiles'
        for domain in DOMAINS
    )
    assert not set(digests(first).values()) & set(digests(second).values())


def test_smaller_set_is_the_beginning_of_a_larger_one(tmp_path):
    formats = ['dota']
    few = write_shapes(tmp_path / 'few', 'target', **SMALL, formats=formats)
    more = write_shapes(
        tmp_path / 'more',
        'target',
        **{**SMALL, 'num_train': 5},
        formats=formats,
    )
    small = digests(few['dota'], '*/*/*')
    large = digests(more['dota'], '*/*/*')
    assert small.items() <= large.items()
    assert len(large) - len(small) == 2 * 2


def test_counts_are_those_of_the_files(tmp_path):
    roots = write_shapes(tmp_path, 'target', **SMALL)
    path = roots['coco'] / 'annotations/instances_train2017.json'
    things = json.loads(path.read_text())['annotations']
    for data_root in roots.values():
        counts = read_counts(data_root)
        assert list(counts) == ['train', 'val']
        assert counts['train'] == {
            name: sum(thing['category_id'] == k for thing in things)
            for k, name in enumerate(CLASSES, start=1)
        }


def test_progress_counts_every_scene(tmp_path):
    calls = []
    write_shapes(
        tmp_path, 'source', **SMALL, progress=lambda *call: calls.append(call)
    )
    assert calls == [(k, 5) for k in range(1, 6)]


def test_whole_set_is_reused(tmp_path, monkeypatch):
    first = write_shapes(tmp_path, 'source', **SMALL)
    monkeypatch.setattr(generate, 'draw_scene', forbid)
    assert write_shapes(tmp_path, 'source', **SMALL) == first
    again = write_shapes(tmp_path, 'source', **SMALL, formats=['dota'])
    assert again == dict(dota=first['dota'])


def test_format_is_added_without_touching_the_others(tmp_path):
    coco = write_shapes(tmp_path, 'source', **SMALL, formats=['coco'])['coco']
    (coco / 'annotations/instances_val2017.json').write_text('mine')
    roots = write_shapes(tmp_path, 'source', **SMALL)
    assert (coco / 'annotations/instances_val2017.json').read_text() == 'mine'
    assert all(map(generate.read_counts, roots.values()))


@pytest.mark.parametrize(
    'change', [dict(num_val=1), dict(image_size=80), dict(seed=1)]
)
def test_other_parameters_replace_the_set(tmp_path, change):
    write_shapes(tmp_path / 'a', 'source', **SMALL)
    for name in 'ab':
        write_shapes(tmp_path / name, 'source', **{**SMALL, **change})
    assert digests(tmp_path / 'a') == digests(tmp_path / 'b')


def test_changed_look_replaces_the_set(tmp_path, monkeypatch):
    roots = write_shapes(tmp_path, 'source', **SMALL)
    before = digests(roots['dota'])
    target = DOMAINS['target']
    monkeypatch.setitem(DOMAINS, 'source', target)
    write_shapes(tmp_path, 'source', **SMALL)
    assert digests(roots['dota']) != before


@pytest.mark.parametrize('before', [False, True], ids=['new', 'replaced'])
def test_interrupted_write_is_redone(tmp_path, monkeypatch, before):
    whole = write_shapes(tmp_path / 'whole', 'target', **SMALL)
    if before:
        write_shapes(tmp_path / 'cut', 'target', **{**SMALL, 'seed': 9})
    left = digests(tmp_path / 'cut')

    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path / 'cut', 'target', **SMALL, progress=interrupt)
    # The old set, or nothing, stands where a whole one is expected.
    staging = 'target/.staging'
    assert left == {
        name: digest
        for name, digest in digests(tmp_path / 'cut').items()
        if not name.startswith(staging)
    }
    assert (tmp_path / 'cut' / staging).exists()

    roots = write_shapes(tmp_path / 'cut', 'target', **SMALL)
    assert digests(tmp_path / 'cut') == digests(tmp_path / 'whole')
    assert list(roots) == list(whole)


def test_interrupted_move_is_redone(tmp_path, monkeypatch):
    write_shapes(tmp_path / 'whole', 'source', **SMALL)
    write_shapes(tmp_path / 'cut', 'source', **{**SMALL, 'seed': 9})
    path_type = type(tmp_path)
    rename = path_type.rename
    moves = []

    def rename_thrice(path, target):
        if len(moves) == 3:
            raise OSError('no space')
        moves.append(target)
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(path_type, 'rename', rename_thrice)
        with pytest.raises(OSError, match='no space'):
            write_shapes(tmp_path / 'cut', 'source', **SMALL)
    # COCO is new, DOTA is gone, ADE20K is old.
    assert not (tmp_path / 'cut/source/split_ss_dota').exists()
    write_shapes(tmp_path / 'cut', 'source', **SMALL)
    assert digests(tmp_path / 'cut') == digests(tmp_path / 'whole')


@pytest.mark.parametrize(
    'damage',
    [
        lambda root: (root / 'val2017/000000000001.jpg').unlink(),
        lambda root: shutil.rmtree(root / 'annotations'),
        lambda root: (root / 'shapes.json').write_text('{"parameters"'),
        lambda root: (root / 'shapes.json').write_text('[]'),
        lambda root: shutil.rmtree(root),
    ],
    ids=['picture', 'folder', 'cut manifest', 'other manifest', 'all'],
)
def test_damaged_set_is_redone(tmp_path, damage):
    root = write_shapes(tmp_path, 'source', **SMALL, formats=['coco'])['coco']
    whole = digests(root)
    damage(root)
    write_shapes(tmp_path, 'source', **SMALL, formats=['coco'])
    assert digests(root) == whole


def test_files_of_others_are_not_replaced(tmp_path, no_drawing):
    theirs = tmp_path / 'source/coco/train2017/000000000009.jpg'
    theirs.parent.mkdir(parents=True)
    theirs.write_text('mine')
    with pytest.raises(FileExistsError, match=r'coco has no shapes\.json'):
        write_shapes(tmp_path, 'source', **SMALL)
    assert theirs.read_text() == 'mine'


def test_two_writers_draw_once(tmp_path):
    drawn = []
    threads = [
        threading.Thread(
            target=write_shapes,
            args=(tmp_path, 'target'),
            kwargs=dict(SMALL, progress=lambda *call: drawn.append(call)),
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn == [(k, 5) for k in range(1, 6)]


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        (dict(domain='sketch'), ValueError, "'sketch'.*source, target"),
        (dict(formats=['voc']), ValueError, r"\['voc'\].*coco, dota, ade20k"),
        (dict(formats=[]), ValueError, 'one or more of coco'),
        (dict(formats='coco'), TypeError, r"\['coco'\]"),
        (dict(num_train=0), ValueError, 'num_train .* is 0; give 1'),
        (dict(num_val=-1), ValueError, 'num_val .* is -1; give 1'),
        (dict(image_size=63), ValueError, 'image_size .* is 63; give 64'),
        (dict(seed=-1), ValueError, 'seed .* is -1; give 0'),
        (dict(seed=1.0), TypeError, 'seed .* is 1.0, a float'),
        (dict(num_train=True), TypeError, 'num_train .* is True, a bool'),
    ],
    ids=str,
)
def test_bad_parameters(tmp_path, change, error, message):
    arguments = {'domain': 'source', 'formats': FORMATS, **SMALL, **change}
    with pytest.raises(error, match=message):
        write_shapes(tmp_path, arguments.pop('domain'), **arguments)
    assert not list(tmp_path.iterdir())
