"""The config of a merged model, in which nothing of mmflora is left."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmflora.files.atomic import staged_file, write_text
from mmflora.models.peft_options import (
    PEFT_NAMES,
    part_settings,
    peft_settings,
)
from mmflora.models.plain import (
    intern_vit_features,
    norm_features,
    pyramid_features,
    timm_features,
    timm_intermediates,
    window_attention,
)

# mmflora's modules, which no toolkit has, and what replaces them.
_REPLACED = {
    'mmflora.ConvNeXt': 'TimmConvNeXt',
    'mmflora.PEFTConvNeXt': 'TimmConvNeXt',
    'mmflora.FLoRAConvNeXt': 'TimmConvNeXt',
    'mmflora.TimmBackbone': 'TimmIntermediates',
    'mmflora.InternViT': 'PlainInternViT',
    'mmflora.PEFTInternViT': 'PlainInternViT',
    'mmflora.FLoRAInternViT': 'PlainInternViT',
    'mmflora.SimplePyramid': 'SimplePyramid',
    'mmflora.BatchNormNeck': 'BatchNormNeck',
}
# The modules that hold these, to go beside a config, and their source.
_SOURCES = {
    'merged_backbone.py': Path(timm_features.__file__),
    'merged_intermediates.py': Path(timm_intermediates.__file__),
    'merged_intern_vit.py': Path(intern_vit_features.__file__),
    'merged_norm.py': Path(norm_features.__file__),
    'merged_windows.py': Path(window_attention.__file__),
    'merged_pyramid.py': Path(pyramid_features.__file__),
}
_MODULES = {
    'TimmConvNeXt': ('merged_backbone.py',),
    'TimmIntermediates': (
        *('merged_backbone.py', 'merged_intermediates.py'),
        'merged_windows.py',
    ),
    'PlainInternViT': ('merged_intern_vit.py', 'merged_pyramid.py'),
    'SimplePyramid': ('merged_pyramid.py',),
    'BatchNormNeck': ('merged_norm.py',),
}
# Arguments that only mmflora's backbones have.
_OWN_ARGUMENTS = ('peft', *PEFT_NAMES, 'init_cfg')
# Arguments that mmflora's builder of models has beyond a model's own.
_PARTS = ('model_type', 'parts', 'new_params', 'unused_keys', 'kept_classes')
_OTHERS = {
    'mmflora.AdapterCheckpointHook': 'CheckpointHook',
    'mmflora.ThreadedDOTAMetric': 'DOTAMetric',
}
# What MMEngine's own constructor of optimizers reads of `paramwise_cfg`.
_STOCK_MULTIPLIERS = (
    'bias_lr_mult',
    'bias_decay_mult',
    'norm_decay_mult',
    'flat_decay_mult',
    'dwconv_decay_mult',
    'dcn_offset_lr_mult',
    'bypass_duplicate',
    'custom_keys',
)
# Variables of mmflora's configs that only serve to make other settings.
_VARIABLES = (
    *('atto', 'attention', 'vit', 'swin', 'convnext', 'full_finetuning'),
    *('method', 'method_hooks', 'base_weights', 'weights_help', 'data_help'),
    *('peft_hooks', 'peft_runtime'),
)
# MMEngine puts the config's folder in as it is, whatever quotes are in it; no
# `import`, which would make the file one of MMEngine's configs of the other
# kind.
_LOADER = (
    '# Parts of the model are in {modules}, in the folder of this file.\n'
    '__import__(\'sys\').path.append(r"""{{{{ fileDirname }}}}/""")\n'
)


@dataclass
class PlainConfig:
    """A config without mmflora.

    Attributes:
        cfg: The config.
        modules: The files that it needs beside it, such as
            ``merged_backbone.py``.
        remarks: What the plain model does otherwise.
    """

    cfg: Config
    modules: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the config as Python."""
        text = self.cfg.pretty_text
        if not self.modules:
            return text
        return _LOADER.format(modules=', '.join(self.modules)) + text

    def write(self, path: str | Path) -> list[Path]:
        """Write the config, and the backbone's module beside it if needed.

        Returns:
            The files.
        """
        path = Path(path)
        files = []
        for module in self.modules:
            files.append(path.with_name(module))
            with staged_file(files[-1]) as partial:
                partial.write_bytes(_source(module).encode())
        write_text(path, self.text())
        return [*files, path]


def _source(module: str) -> str:
    """Return the text of a module, which finds the others beside it."""
    text = _SOURCES[module].read_text(encoding='utf-8')
    for name, path in _SOURCES.items():
        stem = name.removesuffix('.py')
        text = text.replace(f'from .{path.stem} import', f'from {stem} import')
    return text


def plain_config(cfg: Config) -> PlainConfig:
    """Replace everything of mmflora in a config by what is stock.

    Adapted backbones become the backbones that they adapt; mmflora's
    ConvNeXt and timm's models, which no toolkit has, become classes of
    ``merged_backbone.py``.  Pretrained weights, hooks for adapters and the
    optimizer's roles are left out.

    Args:
        cfg: The config of a training with mmflora, whole.

    Returns:
        The plain config; the argument stays as it is.

    Raises:
        ValueError: If it names something of mmflora that has no stock
            counterpart; all places are listed.
    """
    settings = copy.deepcopy(cfg.to_dict())
    remarks: list[str] = []
    settings['model'] = _plain_model(settings.get('model') or {}, remarks)
    if settings['model'].get('pretrained'):
        settings['model']['pretrained'] = None
    _replace_training(settings)
    settings.update(load_from=None, resume=False)
    for name in _VARIABLES:
        settings.pop(name, None)
    own = _mentions(settings['model'], tuple(_MODULES)).values()
    modules = sorted({file for name in own for file in _MODULES[name]})
    _replace_imports(settings, modules)
    left = _mentions(settings, ('mmflora',))
    if left:
        raise ValueError(
            'The config cannot be written without mmflora: '
            + ', '.join(f'{key} is {value!r}' for key, value in left.items())
            + ' has no stock counterpart. Change it with --cfg-options '
            'KEY=VALUE to something of the toolkit, or to None.'
        )
    return PlainConfig(Config(settings), modules, remarks)


def _plain_model(node: Any, remarks: list[str]) -> Any:
    """Return a part of the model's config without mmflora."""
    if isinstance(node, list | tuple):
        return type(node)(_plain_model(item, remarks) for item in node)
    if not isinstance(node, dict):
        return node
    ours = str(node.get('type')).startswith('mmflora.')
    for autocast in _autocasts(node) if ours else ():
        remarks.append(
            f"autocast='{autocast}' of a frozen part is left out: the "
            'plain model computes in float32. For mixed precision, run it '
            'under torch.autocast.'
        )
    if node.get('type') == 'mmflora.PEFTBackbone':
        return _plain_model(node['backbone'], remarks)
    if node.get('type') == 'mmflora.PEFTModel':
        kept = {k: v for k, v in node.items() if k not in _PARTS}
        if not _without_pretrained(kept.get('init_cfg')):
            kept.pop('init_cfg', None)
        return _plain_model({**kept, 'type': node['model_type']}, remarks)
    if node.get('type') in _REPLACED:
        kept = {
            key: value
            for key, value in node.items()
            if key not in _OWN_ARGUMENTS
        }
        if _REPLACED[node['type']] == 'TimmConvNeXt':
            kept.setdefault('arch', timm_features.DEFAULT_ARCH)
        return {**kept, 'type': _REPLACED[node['type']]}
    plain = {
        key: _plain_model(value, remarks)
        for key, value in node.items()
        if key != 'init_cfg'
    }
    if 'init_cfg' in node:
        plain['init_cfg'] = _without_pretrained(node['init_cfg'])
    return plain


def _autocasts(node: Any) -> list[str]:
    parts = part_settings(node.get('parts') or {}).values()
    settings = [peft_settings(node), *parts]
    return [own['autocast'] for own in settings if own.get('autocast')]


def _without_pretrained(init_cfg: Any) -> Any:
    """Drop what loads weights: the checkpoint brings all of them."""
    if isinstance(init_cfg, list | tuple):
        return [kept for kept in map(_without_pretrained, init_cfg) if kept]
    if not isinstance(init_cfg, dict):
        return init_cfg
    if init_cfg.get('type') in ('Pretrained', 'PretrainedInit'):
        return None
    return init_cfg


def _replace_training(settings: dict[str, Any]) -> None:
    """Take stock hooks, metrics and optimizer constructor, in place."""
    wrapper = settings.get('optim_wrapper')
    if isinstance(wrapper, dict) and str(
        wrapper.get('constructor', '')
    ).startswith('mmflora.'):
        wrapper.pop('constructor')
        kept = {
            key: value
            for key, value in (
                wrapper.pop('paramwise_cfg', None) or {}
            ).items()
            if key in _STOCK_MULTIPLIERS
        }
        if kept:
            wrapper['paramwise_cfg'] = kept
    for key in ('default_hooks', 'val_evaluator', 'test_evaluator'):
        if key in settings:
            settings[key] = _rename_types(settings[key])
    if 'custom_hooks' in settings:
        settings['custom_hooks'] = [
            hook
            for hook in settings['custom_hooks'] or []
            if not _mentions(hook, ('mmflora',))
        ]
    hooks = settings.get('default_hooks') or {}
    for name in [n for n in hooks if _mentions(hooks[n], ('mmflora',))]:
        del hooks[name]


def _rename_types(node: Any) -> Any:
    if isinstance(node, list | tuple):
        return type(node)(_rename_types(item) for item in node)
    if not isinstance(node, dict):
        return node
    renamed = {key: _rename_types(value) for key, value in node.items()}
    if renamed.get('type') in _OTHERS:
        renamed['type'] = _OTHERS[renamed['type']]
    return renamed


def _replace_imports(settings: dict[str, Any], modules: list[str]) -> None:
    """Import the backbones' modules instead of mmflora's, in place."""
    imports = dict(settings.pop('custom_imports', None) or {})
    names = imports.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    kept = [name for name in names if name.split('.')[0] != 'mmflora']
    stems = [module.removesuffix('.py') for module in modules]
    kept += [stem for stem in stems if stem not in kept]
    if kept:
        imports.update(imports=kept, allow_failed_imports=False)
        settings['custom_imports'] = imports


def _mentions(node: Any, words: tuple[str, ...]) -> dict[str, str]:
    """Return what is, or lies in, one of some packages; by its place."""
    found: dict[str, str] = {}
    pending = [('', node)]
    while pending:
        where, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f'{where}.{k}', item) for k, item in value.items()]
        elif isinstance(value, list | tuple):
            pending += [(f'{where}.{i}', item) for i, item in enumerate(value)]
        elif isinstance(value, str) and value.split('.')[0] in words:
            found[where.removeprefix('.')] = value
    return found
