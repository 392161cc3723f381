"""Checks of what a config names, made before any model is built.

Training finds a missing folder only after the model has been built, and a
missing annotation file of the evaluator only after the first epoch.  These
checks read the config alone, look at every path in it, and report everything
that is missing in one error.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmflora.files.pickles import read_safely
from mmflora.files.sources import check_source, find_source, is_local
from mmflora.files.training_checkpoints import checkpoint_file

from .walk import find_dicts, frozen_parts

LOADERS = {
    'train': ('train_dataloader', 'val_dataloader'),
    'test': ('test_dataloader',),
}
EVALUATORS = {'train': 'val_evaluator', 'test': 'test_evaluator'}


def check_paths(cfg: Mapping[str, Any], stage: str) -> None:
    """Check that data, annotations and weights of a run are there.

    The check covers the data sets of the stage's loaders (also wrapped ones),
    the evaluator's files, and the weights that the model and the run start
    from.  Paths with a scheme (``s3://``) or another file backend are left to
    MMEngine.

    Args:
        cfg: The whole config, all options merged.
        stage: ``'train'``, which looks at validation too where there is one,
            or ``'test'``.

    Raises:
        FileNotFoundError: If anything is missing; lists all of it, each with
            its place in the config, and what to do.
        ValueError: If a weights file is damaged.
    """
    missing: list[str] = []
    options: list[str] = []
    for name in LOADERS[stage]:
        loader = cfg.get(name)
        if isinstance(loader, Mapping):
            for key, dataset in _datasets(loader.get('dataset'), name):
                missing += _check_dataset(key, dataset, options)
    for key, path in _evaluator_files(cfg.get(EVALUATORS[stage]), stage):
        if not os.path.isfile(path):
            missing.append(f"{key}: file '{path}'{_where(path)}")
            options.append(f'{key}=FILE')
    if missing:
        raise FileNotFoundError(_message(missing, options, cfg))
    _check_weights(cfg, stage)


def check_weights_file(key: str, source: str, remedy: str = '') -> None:
    """Check that a weights file is there and whole, and no program.

    Args:
        key: What names it: an option, or a place in the config.
        source: A path, also that of a folder of weights; a URL or scheme is
            left to the loader.
        remedy: What to do, beyond giving another file.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, or could run code when it is read.
    """
    source = find_source(source)
    try:
        check_source(source)
        file = checkpoint_file(source)
        if is_local(file) and file.endswith(('.pth', '.pt', '.bin')):
            read_safely(file, 'meta')
    except (FileNotFoundError, ValueError) as error:
        text = f'{key}: {error}'
        raise type(error)(f'{text} {remedy}' if remedy else text) from error


def _datasets(node: Any, loader: str) -> Iterator[tuple[str, Any]]:
    """Yield the data sets of a loader, the wrapped ones included."""
    for key, dataset in find_dicts(node, f'{loader}.dataset'):
        if 'type' in dataset and {'data_root', 'ann_file', 'data_prefix'} & (
            dataset.keys()
        ):
            yield key, dataset


def _check_dataset(
    key: str, dataset: Mapping[str, Any], options: list[str]
) -> list[str]:
    """List the missing paths of a data set, and the options that set them."""
    if (dataset.get('backend_args') or {}).get('backend', 'local') != 'local':
        return []
    kind = str(dataset['type'])
    root = dataset.get('data_root') or ''
    if _is_remote(root):
        return []
    if root and not os.path.isdir(root):
        options.append(f'{key}.data_root=FOLDER')
        return [f"{key}.data_root ({kind}): folder '{root}'{_where(root)}"]
    missing = []
    ann_file = dataset.get('ann_file')
    names = {'ann_file': ann_file} if isinstance(ann_file, str) else {}
    for name, prefix in (dataset.get('data_prefix') or {}).items():
        names[f'data_prefix.{name}'] = prefix
    for name, value in names.items():
        if not value or not isinstance(value, str) or _is_remote(value):
            continue
        path = os.path.join(root, value)
        # What has a suffix is a file; DOTA's annotations are a folder.
        is_file = name == 'ann_file' and bool(os.path.splitext(path)[1])
        found = os.path.isfile(path) if is_file else _has_entries(path)
        if not found:
            what = 'file' if is_file else 'folder'
            missing.append(
                f"{key}.{name} ({kind}): {what} '{path}'{_where(path)}"
            )
            options.append(f'{key}.{name}={what.upper()}')
    return missing


def _evaluator_files(node: Any, stage: str) -> Iterator[tuple[str, str]]:
    for key, evaluator in find_dicts(node, EVALUATORS[stage]):
        path = evaluator.get('ann_file')
        if isinstance(path, str) and path and not _is_remote(path):
            yield f'{key}.ann_file', path


def _check_weights(cfg: Mapping[str, Any], stage: str) -> None:
    """Check the weights that the model and the run start from."""
    roots: list[tuple[str, Any]] = [('model', cfg.get('model'))]
    if stage == 'test':
        # The others get all their weights from the checkpoint.
        roots = [(p.owner, p.node) for p in frozen_parts(cfg)]
        roots = list(dict(roots).items())
    elif cfg.get('load_from'):
        check_weights_file('load_from', cfg['load_from'])
    for root, node in roots:
        for key, module in find_dicts(node, root):
            init = module.get('init_cfg')
            for entry in init if isinstance(init, list | tuple) else [init]:
                source = (entry or {}).get('checkpoint')
                if isinstance(source, str):
                    check_weights_file(
                        f'{key}.init_cfg.checkpoint',
                        source,
                        cfg.get('weights_help', ''),
                    )


def _is_remote(path: str) -> bool:
    return re.match(r'\w+:', path) is not None


def _has_entries(folder: str) -> bool:
    return os.path.isdir(folder) and any(os.scandir(folder))


def _where(path: str) -> str:
    """Say what is wrong with a path: the part of it that exists."""
    if os.path.isdir(path):
        return ' is empty'
    parent = Path(os.path.abspath(path)).parent
    while not parent.exists():
        parent = parent.parent
    return f" does not exist ('{parent}' does)"


def _message(
    missing: list[str], options: list[str], cfg: Mapping[str, Any]
) -> str:
    lines = [f'The config names {len(missing)} path(s) that cannot be used:']
    lines += [f'  {line}' for line in missing]
    if cfg.get('data_help'):
        lines.append(cfg['data_help'])
    lines.append(
        'A relative path counts from the working directory '
        f"('{os.getcwd()}'). To name another place: --cfg-options "
        + ' '.join(dict.fromkeys(options))
    )
    return '\n'.join(lines)
