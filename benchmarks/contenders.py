"""What the benchmark compares: each way to train a model, by name."""

from collections.abc import Callable
from dataclasses import dataclass

from timm.layers.grn import GlobalResponseNorm
from torch import nn

from benchmarks.authors import SecondOperator
from benchmarks.backbones import (
    Candidate,
    build_backbone,
    leave_constants,
    parent_of,
    weighted_layers,
)
from benchmarks.ranks import KERNEL_RANK, count_flora, kind_of
from mmflora.adapters import inject, make_lean
from mmflora.adapters.memory.response_norm import use_memory_efficient_grn


@dataclass(frozen=True)
class Contender:
    """One way to train a model.

    Attributes:
        label: What it is called in tables.
        adapt: Changes a stock model for training at FLoRA's rank.
        note: What the reader has to know of it.
        needs: What a model has to have for the contender to differ from the
            one before: ``'depthwise'`` layers, ``'grn'``, or nothing.
    """

    label: str
    adapt: Callable[[nn.Module, int], Candidate]
    note: str = ''
    needs: str = ''


def _frozen(backbone: nn.Module, rank: int) -> Candidate:
    return Candidate(backbone.requires_grad_(False))


def _frozen_grn(backbone: nn.Module, rank: int) -> Candidate:
    use_memory_efficient_grn(backbone)
    return Candidate(backbone.requires_grad_(False))


def _full(backbone: nn.Module, rank: int) -> Candidate:
    return Candidate(backbone, len(weighted_layers(backbone)))


def _flora(
    path: str = 'auto', lean: bool = False, depthwise: bool = True
) -> Callable[[nn.Module, int], Candidate]:
    def adapt(backbone: nn.Module, rank: int) -> Candidate:
        layers = weighted_layers(backbone)
        chosen = weighted_layers(backbone, depthwise)
        use_memory_efficient_grn(backbone)
        adapter = dict(
            type='FLoRA', rank=rank, kernel_rank=KERNEL_RANK, path=path
        )
        left_out = [
            name.replace('.', r'\.') for name in layers.keys() - chosen
        ]
        report = inject(backbone, adapter, exclude=left_out)
        if lean:
            make_lean(backbone)
        ranks = {kind_of(layer): rank for layer in chosen.values()}
        return Candidate(backbone, len(report.adapted), ranks=ranks)

    return adapt


def _entries(backbone: nn.Module, rank: int) -> Candidate:
    layers = weighted_layers(backbone)
    use_memory_efficient_grn(backbone)
    budgets = {
        name.replace('.', r'\.'): dict(budget=count_flora(layer, rank))
        for name, layer in layers.items()
    }
    report = inject(backbone, dict(type='SaRA'), targets=budgets)
    return Candidate(backbone, len(report.adapted))


def _channels(backbone: nn.Module, rank: int) -> Candidate:
    layers = weighted_layers(backbone).values()
    use_memory_efficient_grn(backbone)
    wanted = sum(count_flora(layer, rank) for layer in layers)
    density = wanted / sum(layer.weight.numel() for layer in layers)
    report = inject(backbone, dict(type='S2FT', density=density))
    return Candidate(backbone, len(report.adapted))


def _authors(backbone: nn.Module, rank: int) -> Candidate:
    layers = weighted_layers(backbone)
    backbone.requires_grad_(False)
    for name, layer in layers.items():
        parent, child = parent_of(backbone, name)
        setattr(parent, child, SecondOperator(layer, rank, KERNEL_RANK))
    ranks = {kind_of(layer): rank for layer in layers.values()}
    return Candidate(backbone, len(layers), ranks=ranks)


def _peft(dora: bool) -> Callable[[nn.Module, int], Candidate]:
    def adapt(backbone: nn.Module, rank: int) -> Candidate:
        from benchmarks.peers import build_peft

        return build_peft(backbone, rank, dora)

    return adapt


def _locon(backbone: nn.Module, rank: int) -> Candidate:
    from benchmarks.peers import build_locon

    return build_locon(backbone, rank)


def _loralib(backbone: nn.Module, rank: int) -> Candidate:
    from benchmarks.peers import build_loralib

    return build_loralib(backbone, rank)


_NO_GROUPS = (
    'without convolutions whose groups do not divide the rank (depthwise '
    'ones), which peft refuses'
)

CONTENDERS = {
    'frozen': Contender(
        'frozen', _frozen, "the floor: the input's gradient, nothing trains"
    ),
    'frozen-grn': Contender(
        "frozen, mmflora's GRN",
        _frozen_grn,
        "with the norm that FLoRA runs with, but for the authors' way",
        needs='grn',
    ),
    'full': Contender('full fine-tuning', _full),
    'flora': Contender('FLoRA', _flora()),
    'flora-folded': Contender('FLoRA, folded', _flora('folded')),
    'flora-factored': Contender('FLoRA, factored', _flora('factored')),
    'flora-dense': Contender('FLoRA, dense', _flora('dense')),
    'flora-lean': Contender('FLoRA, lean', _flora(lean=True)),
    'flora-nodw': Contender(
        'FLoRA, no depthwise',
        _flora(depthwise=False),
        'the layers that peft can take',
        needs='depthwise',
    ),
    'flora-nodw-lean': Contender(
        'FLoRA, no depthwise, lean',
        _flora(lean=True, depthwise=False),
        'the layers that peft can take',
        needs='depthwise',
    ),
    'sara': Contender('SaRA', _entries, 'single entries; without its penalty'),
    's2ft': Contender(
        'S²FT', _channels, 'whole rows, at about as many parameters'
    ),
    'authors': Contender(
        "FLoRA, authors' way",
        _authors,
        'a dense update and a second operator; written from the paper, for '
        'depthwise layers too',
    ),
    'peft-lora': Contender('peft LoRA', _peft(False), _NO_GROUPS),
    'peft-dora': Contender('peft DoRA', _peft(True), _NO_GROUPS),
    'locon': Contender('LyCORIS LoCon-Tucker', _locon),
    'loralib': Contender(
        'loralib ConvLoRA',
        _loralib,
        'its update of a convolution may be larger than the others at rank 1 '
        'already',
    ),
}


def build(
    name: str, model: str, size: int, rank: int, drawn: bool = True
) -> Candidate:
    """Build a contender; twice the same gives the same weights.

    Args:
        name: One of :data:`CONTENDERS`.
        model: timm's name of the model.
        size: Height and width of the images.
        rank: FLoRA's rank; the other methods' ranks are matched to it.
        drawn: Draw what the method starts at zero, so that its update is not
            zero, and neither are the gradients.
    """
    backbone = build_backbone(model, size)
    candidate = CONTENDERS[name].adapt(backbone, rank)
    if drawn:
        leave_constants(candidate, std=0.01)
    return candidate.train()


def chosen(model: str, size: int, only: list[str] | None) -> list[str]:
    """Return the contenders of a run, the floor always among them.

    Args:
        model: timm's name of the model.
        size: Height and width of the images.
        only: The contenders that were asked for; all if ``None``.

    Raises:
        ValueError: If there is no such contender.
    """
    for name in only or ():
        if name not in CONTENDERS:
            raise ValueError(
                f"There is no contender '{name}', only "
                f'{", ".join(CONTENDERS)}.'
            )
    backbone = build_backbone(model, size)
    has = {
        '': True,
        'depthwise': len(weighted_layers(backbone))
        > len(weighted_layers(backbone, depthwise=False)),
        'grn': any(
            isinstance(module, GlobalResponseNorm)
            for module in backbone.modules()
        ),
    }
    return [
        name
        for name, contender in CONTENDERS.items()
        if name == 'frozen'
        or ((only is None or name in only) and has[contender.needs])
    ]
