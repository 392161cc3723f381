"""Named adapters, each with its heads, on one base."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mmengine.config import Config
from torch import nn

from mmflora.adapter_files import AdapterFile, apply_adapter
from mmflora.adapter_files.apply import check_toolkit
from mmflora.adapter_files.read import read_any
from mmflora.adapters import Merged, adapted_modules, merge
from mmflora.checkpoint.record import base_records
from mmflora.config.build import build_model, read_config

from .shared_base import SharedBase, settle


@dataclass
class Task:
    """One task of a :class:`TaskSet`.

    Attributes:
        name: Its name.
        model: Its whole model, over the shared base.
        merged: The way back from a merge, ``None`` while unmerged.
        enabled: Whether its adapters are to count, ``None`` if nothing was
            said: they stay as they are.
    """

    name: str
    model: nn.Module
    merged: Merged | None = None
    enabled: bool | None = None

    def enable(self, enabled: bool) -> None:
        """Let its adapters count or not; of a merge, once it is undone."""
        self.enabled = enabled
        for module in adapted_modules(self.model).values():
            module.adapter_enabled = enabled


class TaskSet:
    """Several tasks over one frozen base in memory.

    Each task is a model of its own: adapters, output norms, neck, head and
    statistics; the frozen weights of all of them are the same memory.  So a
    switch copies nothing, tasks may differ in method, rank, head and
    toolkit, and all of them are ready at any time.

    Args:
        device: Where the models are.

    Example:
        >>> tasks = TaskSet()
        >>> tasks.load('ships', 'oriented.py', 'ships.safetensors')
        >>> tasks.load('land', 'upernet.py', 'land.safetensors')
        >>> model = tasks.activate('land')
    """

    def __init__(self, device: str = 'cpu') -> None:
        self.device = device
        self.base = SharedBase()
        self._tasks: dict[str, Task] = {}
        self._active: str | None = None

    def load(
        self,
        name: str,
        config: str | Config,
        adapter: str | os.PathLike[str] | AdapterFile,
        base: str | None = None,
    ) -> nn.Module:
        """Build a task's model and put its adapter in.

        The base is read from its file only if it is not resident yet.  The
        first task that is loaded becomes the active one.

        Args:
            name: What to call the task.
            config: The config that it was trained with, or its path.
            adapter: An adapter, its file or folder, or its checkpoint.
            base: Where the base is, if elsewhere than the adapter says.

        Returns:
            The model, in evaluation mode.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If the name is taken, the adapter does not fit its
                config, or it stands on another base.
        """
        self._check_free(name)
        if not isinstance(adapter, AdapterFile):
            adapter = read_any(adapter)
        if base is not None:
            adapter = copy.deepcopy(adapter)
            adapter.move_base(base)
        config = read_config(config)
        check_toolkit(adapter, config.get('default_scope'))
        # The base comes from the resident one, or from where the adapter says.
        model = build_model(config, weights=False).to(self.device)
        for key, (backbone, record) in base_records(model).items():
            described = adapter.backbone(key)['base']
            if self.base.lend(backbone, record, described['sha256'], key):
                settle(backbone, record, described)
        apply_adapter(model, adapter)
        # The toolkits' own functions for inference look for it there.
        vars(model)['dataset_meta'] = dict(adapter.config['dataset_meta'])
        return self.add(name, model)

    def add(self, name: str, model: nn.Module) -> nn.Module:
        """Take in a model whose adapter and base are in place.

        Raises:
            ValueError: If the name is taken, or the model has no frozen base
                or another one.
        """
        self._check_free(name)
        records = base_records(model)
        if not records:
            raise ValueError(
                f"Task '{name}': {type(model).__name__} has no backbone with "
                'a frozen base. Build it with a backbone of mmflora.'
            )
        for part, (backbone, record) in records.items():
            self.base.adopt(backbone, record, part)
        self._tasks[name] = Task(name, model.eval())
        if self._active is None:
            self._active = name
        return model

    def activate(self, name: str) -> nn.Module:
        """Make a task the active one, its adapters enabled.

        Returns:
            Its model.
        """
        task = self[name]
        task.enable(True)
        self._active = name
        return task.model

    def disable(self) -> nn.Module:
        """Let the active task's backbone compute without its adapters.

        Parameters of the base that a tuning method trained stay as they are.

        Returns:
            Its model; :meth:`activate` enables the adapters again.

        Raises:
            ValueError: If it is merged: its weights hold the adapters.
        """
        task = self[self.active]
        if task.merged is not None:
            raise ValueError(
                f"Task '{task.name}' is merged, so that its adapters cannot "
                f"be disabled. Unmerge it first: unmerge('{task.name}')."
            )
        task.enable(False)
        return task.model

    @contextmanager
    def using(self, name: str) -> Iterator[nn.Module]:
        """Make a task active within a ``with`` block.

        Its adapters stay as they are, enabled or disabled.
        """
        before, model = self.active, self[name].model
        self._active = name
        try:
            yield model
        finally:
            self._active = before

    def unload(self, name: str) -> None:
        """Drop a task; its memory but for the base's is free then."""
        self[name]
        del self._tasks[name]
        if self._active == name:
            self._active = next(iter(self._tasks), None)
        if not self._tasks:
            self.base = SharedBase()

    def merge(self, name: str) -> None:
        """Merge a task's adapters into weights of its own.

        It then computes at the frozen model's cost, and takes the memory of
        its adapted weights; other tasks and the base stay as they are.

        Raises:
            ValueError: If it is merged, or its method cannot be.
        """
        task = self[name]
        if task.merged is not None:
            raise ValueError(f"Task '{name}' is merged already.")
        task.merged = merge(task.model)

    def unmerge(self, name: str) -> None:
        """Put a merged task back onto the shared base, bit for bit.

        Raises:
            ValueError: If it is not merged.
        """
        task = self[name]
        if task.merged is None:
            raise ValueError(f"Task '{name}' is not merged.")
        task.merged.unmerge()
        task.merged = None
        if task.enabled is not None:
            task.enable(task.enabled)

    @property
    def active(self) -> str:
        """The name of the active task.

        Raises:
            ValueError: If nothing is loaded.
        """
        if self._active is None:
            raise ValueError('No task is loaded: use load() or add() first.')
        return self._active

    @property
    def model(self) -> nn.Module:
        """The active task's model."""
        return self[self.active].model

    def names(self) -> list[str]:
        """Return the names of all tasks, in the order of loading."""
        return list(self._tasks)

    def own_bytes(self, name: str) -> int:
        """Return the memory that a task takes beside the shared base."""
        shared = {tensor.data_ptr() for tensor in self.base.tensors.values()}
        model = self[name].model
        own = {
            tensor.data_ptr(): tensor.numel() * tensor.element_size()
            for tensor in (*model.parameters(), *model.buffers())
        }
        return sum(size for at, size in own.items() if at not in shared)

    def __getitem__(self, name: str) -> Task:
        if name not in self._tasks:
            raise ValueError(
                f"There is no task '{name}'; loaded are "
                f'{", ".join(self._tasks) or "none"}.'
            )
        return self._tasks[name]

    def __len__(self) -> int:
        return len(self._tasks)

    def _check_free(self, name: str) -> None:
        if name in self._tasks:
            raise ValueError(
                f"There is a task '{name}' already: unload it, or give the "
                'new one another name.'
            )
