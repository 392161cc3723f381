"""The configs of the three zoos, and how they are read without a network."""

import fnmatch
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from mmflora.config.build import read_config
from mmflora.config.walk import find_dicts, use_plain_batch_norm

TOOLKITS = ('mmdet', 'mmseg', 'mmrotate')


class NoModelError(ValueError):
    """A file of a zoo that only other configs use."""


@dataclass(frozen=True, order=True)
class ZooConfig:
    """A config of a zoo.

    Attributes:
        toolkit: The package that it comes with.
        path: Where it stands among that package's configs.
    """

    toolkit: str
    path: str

    @property
    def name(self) -> str:
        """Its name, as ``_base_`` and the tools take it."""
        return f'{self.toolkit}::{self.path}'

    @property
    def family(self) -> str:
        """Its toolkit and first folder."""
        return f'{self.toolkit}::{self.path.partition("/")[0]}'

    @property
    def file(self) -> Path:
        """The file."""
        return zoo_folder(self.toolkit) / 'configs' / self.path

    @classmethod
    def of(cls, name: str) -> 'ZooConfig':
        """Take a name apart."""
        toolkit, _, path = name.partition('::')
        return cls(toolkit, path)


def zoo_folder(toolkit: str) -> Path:
    """Return the folder that holds the ``configs`` of a toolkit.

    Raises:
        ModuleNotFoundError: If the toolkit is not installed.
    """
    spec = find_spec(toolkit)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f'{toolkit} is not installed.')
    return Path(spec.origin).parent / '.mim'


def zoo_configs(toolkits: Iterable[str] = TOOLKITS) -> list[ZooConfig]:
    """Return all configs of the zoos that are no ``_base_``, in order."""
    found = []
    for toolkit in toolkits:
        folder = zoo_folder(toolkit) / 'configs'
        paths = (path.relative_to(folder) for path in folder.rglob('*.py'))
        found += [
            ZooConfig(toolkit, path.as_posix())
            for path in paths
            if '_base_' not in path.parts
        ]
    return sorted(found)


def select(
    configs: Sequence[ZooConfig],
    only: str | None = None,
    shard: tuple[int, int] = (1, 1),
) -> list[ZooConfig]:
    """Choose configs by name, and one part of several of them.

    Args:
        configs: From which to choose.
        only: A pattern as of file names, ``'mmseg::*/*swin*'``; a part of a
            name does too.
        shard: Which part of how many, counted from 1.

    Raises:
        ValueError: If the pattern matches nothing.
    """
    if only:
        configs = [
            config
            for config in configs
            if fnmatch.fnmatch(config.name, only) or only in config.name
        ]
        if not configs:
            raise ValueError(f"--only: no config of the zoos has '{only}'.")
    return list(configs[shard[0] - 1 :: shard[1]])


def read_zoo_config(config: ZooConfig, text_model: str) -> Config:
    """Read a config of a zoo, so that building its model needs no network.

    Text encoders come from a local folder, the weights of a teacher are left
    out, and batch norms over several GPUs become ordinary ones.  Paths in it
    are relative to the toolkit's folder, which becomes the current one.

    Args:
        config: Which.
        text_model: A folder in Hugging Face's layout.

    Raises:
        NoModelError: If it describes no model.
    """
    os.chdir(zoo_folder(config.toolkit))
    cfg = read_config(str(config.file))
    if 'model' not in cfg:
        raise NoModelError('it has no `model`: a part of other configs')
    for _, node in find_dicts(cfg.model, 'model'):
        for key, value in node.items():
            if value == 'bert-base-uncased':
                node[key] = text_model
        if 'teacher_ckpt' in node:
            node['teacher_ckpt'] = None
        if 'num_cp' in node:
            node['num_cp'] = 0
    use_plain_batch_norm(cfg.model)
    return cfg
