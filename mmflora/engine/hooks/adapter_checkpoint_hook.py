"""Checkpoints that hold what trains, and never lose their base."""

import os.path as osp
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import mmengine
import torch
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop

from mmflora.adapters import adapted_modules
from mmflora.adapters.calibrated import calibrated_layers
from mmflora.checkpoint.base_weights import pretrained_cfg
from mmflora.checkpoint.gaps import refuse_gaps, without_wrappers
from mmflora.checkpoint.record import base_records, note_base
from mmflora.checkpoint.state import (
    adapter_state_dict,
    follow_base,
)
from mmflora.files.atomic import (
    ATOMIC_BACKEND,
    AtomicLocalBackend,
    write_text,
)
from mmflora.files.plain_types import (
    drop_wrapper_prefix,
    make_plain,
    restore_histories,
)
from mmflora.files.training_checkpoints import LAST
from mmflora.registry import HOOKS
from mmflora.version import __version__

from ..averaged_models import share_bases
from ..resumed_groups import fit_groups
from ..shared_starts import share_starts


@HOOKS.register_module()
class AdapterCheckpointHook(CheckpointHook):
    """Saves what trains, every buffer, optimizer, schedulers and meta.

    It takes the place of MMEngine's ``CheckpointHook`` and takes all its
    arguments.  The frozen base stays out of the files; they name it by source
    and content (``meta['mmflora']``).  Files are written atomically, and an
    old file is removed only once its successor is there.  Ordinary
    ``--resume``, ``load_from`` and tests read these files, and so does
    ``torch.load(path, weights_only=True)``.

    Args:
        *args: As for :class:`mmengine.hooks.CheckpointHook`, also
            ``**kwargs``.

    Example:
        >>> default_hooks = dict(
        ...     checkpoint=dict(
        ...         type='mmflora.AdapterCheckpointHook',
        ...         interval=1,
        ...         max_keep_ckpts=2,
        ...         save_best='auto',
        ...     )
        ... )
    """

    backend_args: dict[str, Any] | None
    _loaded_keys: tuple[str, ...] = ()

    def before_train(self, runner: Any) -> None:
        """Settle the base and the way of writing, before any iteration.

        Raises:
            ValueError: If a backbone has no base and none was meant.
        """
        super().before_train(runner)
        self._settle_bases(runner)
        model = without_wrappers(runner.model)
        share_starts(adapted_modules(model).values())
        share_bases(model, runner.hooks)
        local = get_file_backend(self.out_dir, backend_args=self.backend_args)
        if type(local) is LocalBackend and self.file_client_args is None:
            self.backend_args = dict(backend=ATOMIC_BACKEND)
            self.file_backend = AtomicLocalBackend()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Describe method and base in the meta; leave plain types alone."""
        drop_wrapper_prefix(checkpoint)
        model = without_wrappers(runner.model)
        checkpoint['meta']['mmflora'] = dict(
            version=__version__,
            torch_version=str(torch.__version__),
            mmengine_version=mmengine.__version__,
            toolkit=runner.default_scope.scope_name,
            backbones={
                name: dict(
                    method=record.method,
                    base=record.source,
                    base_sha256=record.sha256,
                    base_saved_along=record.source is None,
                    tuned=list(record.tuned_keys),
                )
                for name, (_, record) in base_records(model).items()
            },
        )
        make_plain(checkpoint)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Refuse a checkpoint that would leave parts of the model random.

        A resumed run and a test need everything that trains; ``load_from``
        may bring adapters to a model with other heads, as usual.

        Raises:
            ValueError: If the checkpoint does not fit; all keys are listed.
        """
        restore_histories(checkpoint)
        drop_wrapper_prefix(checkpoint)
        state = checkpoint.get('state_dict', checkpoint)
        self._loaded_keys = tuple(state)
        # The runner builds its loop only when it trains.
        training = isinstance(runner._train_loop, BaseLoop)
        if runner._resume or not training:
            refuse_gaps(without_wrappers(runner.model), state)
        wrapper = getattr(runner, 'optim_wrapper', None)
        resumes = runner._resume and 'param_groups' in checkpoint.get(
            'optimizer', ()
        )
        if resumes and isinstance(wrapper, OptimWrapper):
            fit_groups(checkpoint, wrapper)

    def _save_checkpoint_with_step(
        self, runner: Any, step: int, meta: dict[str, Any]
    ) -> None:
        """Save one checkpoint, name it the last, and remove outdated ones.

        MMEngine's own writes ``last_checkpoint`` in place, which a kill
        leaves empty.
        """
        outdated = []
        kept: Any = self.keep_ckpt_ids if self.max_keep_ckpts > 0 else [step]
        if not kept or kept[-1] != step:
            if len(kept) == self.max_keep_ckpts:
                outdated.append(self._path_of(kept.popleft()))
            kept.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(kept))
        self.last_ckpt = self._path_of(step)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        with adapter_state_dict():
            runner.save_checkpoint(
                self.out_dir,
                self.filename_tmpl.format(step),
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
        if not is_main_process():
            return
        write_text(osp.join(runner.work_dir, LAST), self.last_ckpt)
        for path in outdated:
            if self.file_backend.isdir(path):  # as DeepSpeed writes it
                self.file_backend.rmtree(path)
            elif self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _path_of(self, step: int) -> str:
        return self.file_backend.join_path(
            self.out_dir, self.filename_tmpl.format(step)
        )

    def _save_best_checkpoint(
        self, runner: Any, metrics: dict[str, Any]
    ) -> None:
        """Save the best checkpoint; remove the previous best after that."""
        backend = self.file_backend
        with ExitStack() as stack:
            stack.enter_context(adapter_state_dict())
            if isinstance(backend, AtomicLocalBackend):
                stack.enter_context(backend.removals_after_success())
            super()._save_best_checkpoint(runner, metrics)

    def _settle_bases(self, runner: Any) -> None:
        """Know each base by its content, or refuse to train over it."""
        model = without_wrappers(runner.model)
        for name, (backbone, record) in base_records(model).items():
            if record.in_place or not (record.base_keys or record.tuned_keys):
                continue
            source = self._whole_checkpoint(runner, name)
            whole = runner._load_from or record.origin == 'load_from'
            if source and whole:
                note_base(backbone, record, source, 'load_from')
            elif not record.allow_random:
                raise ValueError(
                    f"'{name}' has no base weights: adapters over a random "
                    'base learn nothing of use. Set `init_cfg=dict('
                    "type='Pretrained', checkpoint=...)` of the backbone, or "
                    '`load_from` a whole detector; to train over a random '
                    'base on purpose, set `allow_random_base=True`.'
                )
            else:
                if not runner._resume:  # init_weights() has drawn it again
                    follow_base(backbone, but=calibrated_layers(backbone))
                runner.logger.warning(
                    f"'{name}': the base has no source; every checkpoint "
                    'holds it in full.'
                )

    def _whole_checkpoint(
        self, runner: Any, name: str
    ) -> dict[str, Any] | None:
        """Return where a checkpoint of the whole model has a part's base."""
        if runner._resume:
            return None
        if runner._load_from:
            return dict(
                type='Pretrained',
                checkpoint=osp.expanduser(str(runner._load_from)),
                prefix=_prefix(name, self._loaded_keys),
            )
        model: Any = without_wrappers(runner.model)
        init = pretrained_cfg(getattr(model, 'init_cfg', None))
        if init is None:
            return None
        names = (init.get('prefix', '').removesuffix('.'), name)
        prefix = '.'.join(filter(None, names))
        return {**init, 'prefix': f'{prefix}.' if prefix else None}


def _prefix(name: str, keys: Iterable[str]) -> str | None:
    """Return what precedes the keys of a part in the file that brought it.

    A semi-supervised detector reads a plain one twice, so that the file holds
    an end of the part's name: ``backbone.`` for ``teacher.backbone``.
    """
    segments = name.split('.')
    for start in range(len(segments)):
        prefix = '.'.join(segments[start:]) + '.'
        if any(key.startswith(prefix) for key in keys):
            return prefix
    return f'{name}.' if name else None
