"""From a folder of annotated images to a config, and all beside it."""

import copy
import os
import shutil
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from mmengine.config import Config

from mmflora.config.build import read_config, resolve_config
from mmflora.config.classes import check_classes
from mmflora.config.peft.arguments import parse_parts
from mmflora.config.peft.changes import Change, changes_table
from mmflora.config.peft.entry import adapt_config
from mmflora.config.walk import find_dicts
from mmflora.files.atomic import write_text

from .annotated_images import ImageSet
from .config_file import config_text
from .findings import Findings
from .fit_for_task import ask_for_config, check_fit, wanted_task
from .formats_of_data import read_folder
from .image_files import find_repeats, look_at_images, note_repeats
from .objects import check_label_maps, check_objects
from .palette import colors
from .readers.index_masks import number_classes
from .report_text import comments, facts, length_text, next_steps
from .sample_sheet import write_sheet
from .settings.data_sets import (
    kind_of_data,
    name_pipelines,
    set_data,
    set_evaluators,
)
from .settings.head_classes import set_classes
from .settings.image_scale import set_scale
from .settings.run_length import set_learning_rate, set_length
from .splits import split_images
from .wishes import Wishes, check_wishes
from .writers.coco_writer import write_coco
from .writers.dota_writer import as_rotated, write_dota
from .writers.map_writer import as_label_maps, write_maps
from .writers.written import Written

# Of one kind that are printed; the report lists all.
_MOST_FILES = 5


def make_config(wishes: Wishes) -> str:
    """Write a config for a folder, its annotations, a report and samples.

    The config comes last: if anything fails, there is none, and the folder
    of annotations keeps the name of an unfinished one.

    Args:
        wishes: What the user asks for.

    Returns:
        The report.

    Raises:
        FileNotFoundError: If the folder or the config to start from is not
            there.
        ValueError: If they do not fit, the folder cannot be used, an option
            is out of range, or the config is there already.
    """
    out = Path(wishes.out)
    check_wishes(wishes, out)
    base_name = None
    if wishes.like:
        base_name = _base_name(wishes.like, out)
    findings = Findings(Path(os.path.abspath(wishes.data)))
    data = read_folder(
        Path(wishes.data), findings, wishes.format, wishes.classes
    )
    if base_name is None:
        raise ask_for_config(data)
    out.parent.mkdir(parents=True, exist_ok=True)
    base = _read(f'_base_ = {base_name!r}\n', out)
    object.__setattr__(base, '_filename', wishes.like)
    task = wanted_task(base)
    check_fit(data, task, str(wishes.like), wishes.task)
    splits = _check(data, wishes, findings)
    _turn_into(data, task, kind_of_data(base), findings)

    # Written under other names first, so that a failure leaves nothing.
    folder = out.with_name(f'{out.stem}_data')
    partial = out.with_name(f'.{out.stem}_data.partial')
    shutil.rmtree(partial, ignore_errors=True)
    try:
        written = _write_annotations(data, task, base, partial, folder)
        cfg, settings = _settings(base, data, task, written, folder, wishes)
        changes: list[Change] = []
        if wishes.peft:
            parts = wishes.peft_parts and parse_parts(list(wishes.peft_parts))
            cfg, changes = adapt_config(
                cfg, wishes.peft, parts or None, wishes.base
            )
        settings['split'] = splits
        text = config_text(
            base_name,
            base.to_dict(),
            cfg.to_dict(),
            comments(wishes, settings, changes),
        )
        _check_text(text, cfg, out)
        sheet = out.with_name(f'{out.stem}_samples.png')
        write_sheet(data, cfg.metainfo.palette, sheet)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    first = facts(data, wishes, settings)
    report = out.with_name(f'{out.stem}_report.txt')
    table = f'\n\n{changes_table(changes)}' if changes else ''
    write_text(report, f'{first}\n{findings.text()}{table}\n')
    check_classes(cfg, 'train')
    check_classes(cfg, 'test')
    write_text(out, text)
    return f'{first}\n{findings.text(_MOST_FILES)}{table}\n\n' + next_steps(
        out, report, sheet, cfg
    )


def _base_name(like: str, out: Path) -> str:
    """Return what ``_base_`` of the new config is to be."""
    path = Path(resolve_config(like))
    if '::' not in like:
        return Path(os.path.relpath(path, out.absolute().parent)).as_posix()
    package = like.partition('::')[0]
    file = path.as_posix().partition('/.mim/configs/')[2]
    return f'{package}::{file}'


def _read(text: str, out: Path) -> Config:
    """Read a config's text as if it stood in the file to write."""
    with NamedTemporaryFile(
        'w', suffix='.py', prefix='_', dir=out.parent, encoding='utf-8'
    ) as file:
        file.write(text)
        file.flush()
        return read_config(file.name)


def _check(data: ImageSet, wishes: Wishes, findings: Findings) -> str:
    """Check images and annotations, and split them.

    Returns:
        What the splits are.

    Raises:
        ValueError: If no class, no object or too few images are left.
    """
    look_at_images(data, findings)
    repeats = find_repeats(data.images)
    if data.task == 'semantic':
        number_classes(data, findings, wishes.ignore)
        check_label_maps(data, findings)
    else:
        check_objects(data, findings)
    objects = sum(len(i.instances) + len(i.pixels) for i in data.images)
    if not data.classes or not objects:
        raise ValueError(
            f"--data: '{data.root}' has {len(data.images)} usable images, "
            f'{len(data.classes)} classes and {objects} objects on them. '
            f'What was found:\n{findings.text(_MOST_FILES)}'
        )
    if wishes.resplit:
        data.has_splits = False
    said = split_images(data, repeats, findings, wishes.split, wishes.seed)
    note_repeats(data, repeats, findings)
    return said


def _turn_into(
    data: ImageSet, task: str, kind: str, findings: Findings
) -> None:
    """Turn the annotations into the kind that the config trains on."""
    if task == 'rotated':
        as_rotated(data)
    if task == 'semantic' and data.task != 'semantic':
        as_label_maps(data)
    if kind == 'dota':
        # There, a blank ends the name.
        names = {name: '_'.join(name.split()) for name in data.classes}
        for name, new in names.items():
            if name != new:
                findings.add('new name', name, f'called {new}')
        data.classes = list(names.values())
        for _, instance in data.instances():
            instance.label = names[instance.label]
    data.task = task


def _write_annotations(
    data: ImageSet, task: str, base: Config, partial: Path, folder: Path
) -> Written:
    partial.mkdir(parents=True)
    kind = kind_of_data(base)
    if kind == 'maps':
        written = write_maps(data, partial, folder)
    elif kind == 'dota':
        written = write_dota(data, partial, folder)
    else:
        written = write_coco(data, task, partial, folder)
    # Without one of them, the other tested split takes its place.
    for one, other in (('val', 'test'), ('test', 'val')):
        tables: tuple[Any, ...] = (written.places, written.files)
        for table in tables:
            if one not in table and other in table:
                table[one] = table[other]
    return written


def _settings(
    base: Config,
    data: ImageSet,
    task: str,
    written: Written,
    folder: Path,
    wishes: Wishes,
) -> tuple[Config, dict[str, str]]:
    """Return the config for the data, and what to say of it."""
    cfg = copy.deepcopy(base)
    metainfo = dict(
        classes=tuple(data.classes),
        palette=(data.palette or [])[: len(data.classes)],
    )
    if len(metainfo['palette']) < len(data.classes) or data.values.keys() - {
        *range(len(data.classes)),
        255,
    }:
        metainfo['palette'] = colors(len(data.classes))
    cfg['metainfo'] = metainfo
    cfg['images'] = data.named.as_posix()
    cfg['annotations'] = folder.as_posix()
    for places in written.places.values():
        for place in places:
            place['metainfo'] = metainfo
    set_data(cfg, written.places)
    set_evaluators(cfg, task, kind_of_data(base), written.files)
    set_classes(cfg, data.classes)
    scale = set_scale(cfg, data)
    name_pipelines(cfg, base)
    if cfg.get('data_help'):
        cfg['data_help'] = ''  # how to get the data of the base
    train = data.split('train')
    if any(
        (node.get('filter_cfg') or {}).get('filter_empty_gt')
        for _, node in find_dicts(cfg.train_dataloader.dataset, '')
    ):
        train = [image for image in train if image.instances] or train
    length = set_length(cfg, len(train), wishes.batch_size, wishes.epochs)
    rate = set_learning_rate(cfg, length.batch_size, wishes.gpus)
    # Lists are written in full, where the scope is the config's own anyway.
    for key in ('param_scheduler', 'custom_hooks'):
        for _, node in find_dicts(cfg.get(key), key):
            if node.get('_scope_') == cfg.default_scope:
                del node['_scope_']
    return cfg, dict(
        annotations=written.note,
        scale=scale,
        length=length_text(length, cfg),
        rate=rate,
    )


def _check_text(text: str, cfg: Config, out: Path) -> None:
    """Check that the text, read with its base, gives the very config."""
    read, wanted = _read(text, out).to_dict(), cfg.to_dict()
    if read != wanted:
        keys = [
            key
            for key in {**read, **wanted}
            if read.get(key) != wanted.get(key)
        ]
        raise RuntimeError(
            f'The text for {out} does not give the config that it was made '
            f'from: {", ".join(keys)} differ. This is a fault of mmflora; '
            'please report it with the config that you started from.'
        )
