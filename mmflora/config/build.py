"""From a config to what it describes: the only place that builds models."""

import difflib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.overrides import TorchFunctionMode

from mmflora.collector import keep_imports, paused_collector
from mmflora.models.text_models import (
    support_text_detectors,
    text_models_without_weights,
)

from .command_line import merge_options
from .walk import find_dicts, use_plain_batch_norm
from .zoo_names import zoo_config

TOOLKITS = {
    'mmdet': ('mmdet',),
    'mmrotate': ('mmdet', 'mmrotate'),
    'mmseg': ('mmseg',),
}
"""The packages whose modules a config of each ``default_scope`` names."""


def resolve_config(path: str) -> str:
    """Return the path of a config file, if there is one.

    Args:
        path: The path, or a name such as ``mmdet::dino/….py``.

    Raises:
        FileNotFoundError: If there is none; names the nearest ones.
        ValueError: If the name is one of an unknown package.
    """
    if '::' in path:
        return zoo_config(path)
    if os.path.isfile(path):
        return path
    folders = [Path('configs'), Path(__file__).parents[1] / '.mim' / 'configs']
    folders.insert(0, Path(path).parent)
    known = {
        file.name: str(file)
        for folder in reversed(folders)
        if folder.is_dir()
        for file in sorted(folder.rglob('*.py'))
        if '_base_' not in file.parts and file.parent != Path('.')
    }
    near = difflib.get_close_matches(Path(path).name, known, n=3, cutoff=0.3)
    nearest = ''.join(f'\n  {known[name]}' for name in near)
    raise FileNotFoundError(
        f"Config not found: '{path}' (looked in '{os.path.abspath(path)}'). "
        + (f'The nearest ones are:{nearest}' if near else 'Give a .py file.')
    )


def read_config(
    config: str | Config, options: Mapping[str, Any] | None = None
) -> Config:
    """Read a config file, and change settings of it.

    Args:
        config: Its path or zoo name; a config that was read before is
            returned itself.
        options: Settings to change, such as ``{'model.backbone.lean': True}``.

    Raises:
        FileNotFoundError: If there is no such file; names the nearest ones.
        ValueError: If it is no config, or has no place for a setting.
    """
    if not isinstance(config, Config):
        path = resolve_config(config)
        try:
            config = Config.fromfile(path)
        except ImportError as error:
            raise _not_imported(path, error) from error
        except (OSError, SyntaxError) as error:
            raise ValueError(
                f"'{path}' cannot be read as a config: {error}"
            ) from error
    if options:
        merge_options(config, options)
    return config


def _not_imported(path: str, error: ImportError) -> ValueError:
    """Return the error for a config that imports what is not there."""
    reason: BaseException = error
    while reason.__cause__ or reason.__context__:
        reason = reason.__cause__ or reason.__context__ or reason
    return ValueError(
        f"'{path}' imports what cannot be imported, in its `custom_imports` "
        f'or at its head: {reason}. Install that package; or, for a file of '
        'your own, name its folder in the environment: PYTHONPATH=FOLDER'
    )


def register_toolkit(cfg: Config) -> None:
    """Register the modules of the library that ``default_scope`` names.

    Raises:
        ValueError: If it names none that mmflora works with.
    """
    scope = cfg.get('default_scope')
    if scope not in TOOLKITS:
        raise ValueError(
            f"The config's default_scope is {scope!r}. It names the library "
            f'of the task: one of {", ".join(TOOLKITS)}. Modules of mmflora '
            "are found in all of them as 'mmflora.X'."
        )
    with paused_collector():
        for package in TOOLKITS[scope]:
            setup = import_module(f'{package}.utils')
            setup.register_all_modules(init_default_scope=False)
    support_text_detectors()


def build_model(
    cfg: Config,
    part: str = 'model',
    *,
    weights: bool = True,
    autocast: bool = True,
    sync_bn: bool = True,
    device: str | None = None,
) -> nn.Module:
    """Build the model of a config, in the scope of its toolkit.

    ``init_weights()`` is not called: the base of an adapted backbone loads
    when the backbone is built, and the rest stays as its layers drew it.

    Args:
        cfg: The config; it is not changed.
        part: The place of what to build, such as ``'model.backbone'``.
        weights: Whether the config's ``init_cfg`` and ``pretrained`` count;
            without them no file is read.
        autocast: Whether frozen parts compute in their ``autocast``, or in
            float32.
        sync_bn: Whether SyncBN stays, or becomes BN, which needs no GPU.
        device: Where to build; ``'meta'`` for shapes without memory; by
            default PyTorch's own default device.

    Returns:
        The model; the whole one has its config as ``cfg``, where the
        toolkits' functions for inference look for it.

    Raises:
        FileNotFoundError: If a base's file is missing.
        ValueError: If the config has no model, names a type that nothing
            registers, or its ``default_scope`` names no library that mmflora
            works with.
    """
    if not isinstance(cfg.get('model'), Mapping):
        raise ValueError(
            f"The config '{cfg.filename}' has no `model`: give one that "
            'tools/train.py takes, not a file of configs/_base_.'
        )
    register_toolkit(cfg)
    init_default_scope(cfg.default_scope)
    root: Any = Config(dict(model=cfg.model.to_dict()))
    for _, node in find_dicts(root.model, 'model'):
        if not weights:
            node.pop('init_cfg', None)
            node.pop('pretrained', None)
        if not autocast and str(node.get('type')).startswith('mmflora.'):
            parts = [own for _, own in find_dicts(node.get('parts'), '')]
            for settings in (node, node.get('peft') or {}, *parts):
                settings.pop('autocast', None)
    if not sync_bn:
        use_plain_batch_norm(root.model)
    node = root
    for key in part.split('.'):
        node = node[key]
    with ExitStack() as stack:
        if device:
            stack.enter_context(torch.device(device))
        if device == 'meta':
            stack.enter_context(_WithoutValues())
            stack.enter_context(text_models_without_weights())
        try:
            model: nn.Module = MODELS.build(node)
        except KeyError as error:
            raise not_built(cfg, part, error) from error
    if part == 'model':
        model.cfg = cfg
    return model


def not_built(
    cfg: Config, part: str, error: Exception, when: str = ''
) -> ValueError:
    """Return the error for what a config's own class or type refuses.

    Args:
        cfg: The config.
        part: The place of what was built.
        error: What came of it.
        when: When it was built, if that counts.
    """
    if isinstance(error.__cause__, KeyError):
        error = error.__cause__  # it has been through here
    node: Any = cfg
    for key in part.split('.'):
        node = node[key]
    kind = node.get('type')
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '?')
    reason = ' '.join(str(error.args[0] if error.args else error).split())
    text = (
        f"'{part}' ({name}) cannot be built as the config has it{when}: "
        f'{type(error).__name__}: {reason}'
    )
    if isinstance(error, KeyError):
        text += (
            ' A type of your own is registered by a module that '
            '`custom_imports` of the config names.'
        )
    return ValueError(text)


class _WithoutValues(TorchFunctionMode):
    """Builds on the meta device what expects its tensors to have values.

    Transformers read their rates of stochastic depth out of ``linspace`` as
    numbers, so that it stays on the CPU.  Drawing values, which there do not
    exist, would take most of the time.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs.setdefault('device', 'cpu')
        if func in _DRAWS and args[0].is_meta:
            return args[0]
        return func(*args, **kwargs)


_DRAWS = (
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    # Of truncated normal values, once uniform ones are drawn.
    torch.Tensor.erfinv_,
    torch.Tensor.clamp_,
)


def build_runner(cfg: Config) -> Any:
    """Build the runner that a config asks for, its toolkit registered."""
    # Imported late, so that bad input is found before the libraries load.
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    register_toolkit(cfg)
    keep_imports()
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return Runner.from_cfg(cfg)
