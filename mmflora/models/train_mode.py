"""Keeps ``train()`` of a part from freezing adapters or moving a base."""

from collections.abc import Collection, Iterable
from typing import Any

from mmengine.logging import print_log
from torch import nn

from mmflora.adapters.tuning import Tuning


def release_stages(backbone: nn.Module) -> None:
    """Stop a backbone's ``train()`` from freezing what is to train.

    Classes of OpenMMLab freeze their ``frozen_stages`` there, long after the
    optimizer has been given the parameters.  The base is frozen in any case,
    so that the setting becomes -1 where it would reach anything else.

    Raises:
        ValueError: If the class freezes it by another setting.
    """
    trains = [p for p in backbone.parameters() if p.requires_grad]
    backbone.train(backbone.training)
    if all(parameter.requires_grad for parameter in trains):
        return
    stages = set()
    for module in backbone.modules():
        if isinstance(vars(module).get('frozen_stages'), int):
            stages.add(vars(module)['frozen_stages'])
            vars(module)['frozen_stages'] = -1
    for parameter in trains:
        parameter.requires_grad_(True)
    name = type(backbone).__name__
    backbone.train(backbone.training)
    if not all(parameter.requires_grad for parameter in trains):
        names = {p: key for key, p in backbone.named_parameters()}
        frozen = [names[p] for p in trains if not p.requires_grad]
        raise ValueError(
            f'{name}.train() freezes {len(frozen)} parameters that are to '
            f'train: {", ".join(frozen[:4])}, … Turn off the setting by which '
            'it does, as the base is frozen in any case, or leave these '
            'layers out with `exclude`.'
        )
    print_log(
        f'{name}: frozen_stages={max(stages)} becomes -1: the base is frozen '
        'in any case, and the setting would freeze in these stages what is '
        'to train. Leave layers out with `exclude`.',
        logger='current',
    )


class KeptStatistics:
    """A forward hook that holds batch norms in evaluation mode.

    It runs before each forward pass of the module that calls them, whatever
    was set by ``train()``, and knows them by name: a conversion to SyncBN
    replaces them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)

    def __call__(self, caller: nn.Module, _inputs: Any) -> None:
        """Hold the layers, where the module trains."""
        if caller.training:
            for name in self.names:
                caller.get_submodule(name).eval()


def keep_statistics(
    backbone: nn.Module,
    stock: Collection[str],
    new: Collection[str],
    keep: bool | None,
) -> None:
    """Keep the statistics of the base's batch norms, and say so once.

    They are a part of the frozen base.  Those of layers that are new move as
    usual, and so do those that full fine-tuning trains, if nothing is said;
    those of norms whose scales alone are tuned are kept.

    Args:
        backbone: The backbone, adapted.
        stock: The keys of its weights and buffers, without adapters.
        new: The names of its new parameters.
        keep: Whether to keep them; if ``False``, the backbone's class
            decides.
    """
    names = []
    for name, module in backbone.named_modules():
        prefix = f'{name}.' if name else ''
        own = {prefix + key for key in module._parameters}
        tuning = vars(module).get('tuning')
        ordinary = isinstance(tuning, Tuning) and tuning.ordinary
        if (
            module._buffers.get('running_mean') is not None
            and f'{prefix}running_mean' in stock
            and (keep is True or not ordinary)
            and not own & set(new)
        ):
            names.append(name)
    if not names:
        return
    if keep is not False:
        for caller, called in _callers(backbone, names).items():
            module = backbone.get_submodule(caller)
            module.register_forward_pre_hook(KeptStatistics(called))
    says = (
        'keep their statistics in training; peft=dict(norm_eval=False) lets '
        'them move'
        if keep is not False
        else 'may move their statistics in training, as norm_eval=False'
    )
    print_log(
        f'{type(backbone).__name__}: {len(names)} batch norms of the base '
        f'{says}.',
        logger='current',
    )


def _callers(part: nn.Module, names: Iterable[str]) -> dict[str, list[str]]:
    """Group layers by the modules that call them; names are relative to these.

    Heads are entered by other methods than ``forward``, so that a hook on the
    whole part would not run.  Lists of modules are never called.  A
    ``Sequential`` may be: some classes (VGG, DenseNet) go through its layers
    one by one.  So what holds it counts as a caller, too.
    """
    callers: dict[str, list[str]] = {}
    for name in names:
        caller, _, called = name.rpartition('.')
        while caller and isinstance(part.get_submodule(caller), _ITERATED):
            if isinstance(part.get_submodule(caller), nn.Sequential):
                callers.setdefault(caller, []).append(called)
            caller, _, last = caller.rpartition('.')
            called = f'{last}.{called}'
        if isinstance(part.get_submodule(caller), _LISTS):
            caller, called = name, ''  # the caller is outside of the part
        callers.setdefault(caller, []).append(called)
    return callers


_LISTS = (nn.ModuleList, nn.ModuleDict)
_ITERATED = (*_LISTS, nn.Sequential)
