"""One of two processes that train methods whose choices must be the same.

Usage, in the folder of the tests: python -m test_engine.method_ranks_process
FOLDER METHOD …, with RANK and its like in the environment.

What differs between processes and machines differs here: each process has a
seed and images of its own; process 1 finds singular vectors of other signs,
other eigenvalues, and other means of statistics.
"""

import hashlib
import json
import sys
from pathlib import Path
from unittest import mock

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from mmflora.adapters import adapted_modules, random_starts
from mmflora.checkpoint.gaps import without_wrappers
from mmflora.engine.hooks import calibration_hook
from mmflora.models import build_timm_backbone

from .fsdp_process import EvenModel
from .toy import TINY, runner, write_base

# The head reads the last map alone.
CONVNEXT = dict(arch=TINY, out_indices=(3,))
VIT = dict(
    model_name='vit_tiny_patch16_224',
    out_indices=(2,),
    embed_dim=32,
    depth=3,
    num_heads=2,
    img_size=32,
)
FROM_DATA = dict(batches=2)
SARA = dict(type='mmflora.SaRAHook', settle_at=0.5)
ANNEALING = dict(type='mmflora.RankAnnealingHook', ranks=[3, 2])


def case(type, hook=None, calibrated=False, vit=False, load=None, **options):
    """Return what a run needs: a method, its hook, where its base is.

    Args:
        type: The method's.
        hook: A hook of its own.
        calibrated: Whether its start needs data.
        vit: Whether it is for a plain transformer.
        load: The file that comes by `load_from`, behind all else: a whole
            model with the base, or an adapter over the base.
        **options: Settings of the method.
    """
    peft = dict(adapter=dict(type=type, **options))
    if calibrated:
        peft['calibration'] = FROM_DATA
    return dict(peft=peft, hook=hook, vit=vit, load=load)


METHODS = {
    'SPT': case('SPT', calibrated=True, rank=2, density=0.05),
    'GPS': case('GPS', calibrated=True),
    'CorDA': case('CorDA', calibrated=True, rank=2),
    'SaRA': case('SaRA', SARA, density=0.3),
    'LIFT': case('LIFT', rank=2, density=0.2),
    'LIFT, iterated': case('LIFT', rank=2, density=0.2, iterations=2),
    'S2FT': case('S2FT', density=0.3),
    'S2FT, load_from': case('S2FT', load='whole.pth', density=0.3),
    'LoRA-XS, load_from': case('LoRAXS', load='whole.pth', rank=4),
    'SoKA, load_from': case('SoKA', load='whole.pth', rank=4),
    'LotteryTicket': case('LotteryTicket', load='ticket.pth', density=0.2),
    'SNELLA': case('SNELLA', dict(type='mmflora.SNELLAHook'), rank=4),
    'DyLoRA': case('DyLoRA', rank=4),
    'MatryoshkaLoRA': case('MatryoshkaLoRA', rank=4),
    'MatryoshkaFLoRA': case('MatryoshkaFLoRA', rank=4),
    'MatryoshkaFLoRA, sampled': case(
        'MatryoshkaFLoRA', rank=4, kernel_rank=2, sampled=True
    ),
    'LoRA, annealed': case('LoRA', ANNEALING, rank=4),
    'FLoRA, annealed': case('FLoRA', ANNEALING, rank=4),
    'AdaLoRA': case(
        'HFPEFT',
        dict(type='mmflora.AdaLoRAHook'),
        **dict(peft_type='ADALORA', init_r=4, target_r=2),
        **dict(tinit=1, tfinal=1, deltaT=1),
    ),
    'FacT': case('FacT', rank=4),
    'QueryableLoRA': case('QueryableLoRA', rank=4, atoms=4),
    'SuperLoRA': case('SuperLoRA', rank=4, groups=2),
    'LoCA': case('LoCA', frequencies=16),
    'Mona': case('Mona', width=4),
    'ConvAdapter': case('ConvAdapter'),
    'LoRand': case('LoRand', kernel=4),
    'Ladder': case('Ladder', reduction=4),
    'MoSA': case('MoSA', vit=True, width=4),
    'VPT, deep': case('VPT', vit=True, tokens=3),
    'VPT, shallow': case(
        'VPT', vit=True, tokens=3, form='shallow', dropout=0.1
    ),
    'Rein': case('Rein', vit=True, tokens=4, rank=2),
}
"""Runs by name; those of the default tests are in QUICK."""
QUICK = ('SPT', 'S2FT, load_from', 'MatryoshkaFLoRA, sampled', 'VPT, shallow')


def write_bases(folder):
    """Write a base for each backbone, and a whole model."""
    write_base(folder / 'base.pth')
    torch.manual_seed(0)
    options = dict(VIT)
    vit = build_timm_backbone(options.pop('model_name'), **options)
    torch.save(vit.state_dict(), folder / 'vit.pth')
    config = dict(CONVNEXT, type='mmflora.ConvNeXt')
    whole = EvenModel(config).state_dict()
    base = torch.load(folder / 'base.pth', weights_only=True)['state_dict']
    whole.update({f'backbone.{key}': value for key, value in base.items()})
    torch.save(whole, folder / 'whole.pth')
    ticket = EvenModel(backbone_of(folder, **METHODS['LotteryTicket']))
    torch.save(random_starts(ticket).state_dict(), folder / 'ticket.pth')


def backbone_of(folder, peft, vit, load, **_):
    """Return the configuration of a case's backbone."""
    init = dict(
        type='Pretrained',
        checkpoint=str(folder / ('vit.pth' if vit else 'base.pth')),
    )
    if not vit:
        own = dict(CONVNEXT, type='mmflora.PEFTConvNeXt', peft=peft)
        return own if load == 'whole.pth' else dict(own, init_cfg=init)
    plain = dict(VIT, type='mmflora.TimmBackbone', init_cfg=init)
    return dict(type='mmflora.PEFTBackbone', backbone=plain, peft=peft)


class Watch(Hook):
    """Notes what is chosen in each step, and what trains after it."""

    priority = 'LOWEST'

    def __init__(self):
        self.chosen, self.trained, self.losses = [], [], []

    def before_train_iter(self, runner, *_, **__):
        layers = adapted_modules(without_wrappers(runner.model))
        self.chosen.append(
            {name: choices(layer.adapter) for name, layer in layers.items()}
        )

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        model = without_wrappers(runner.model)
        self.trained.append(
            {
                name: digest(parameter)
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            }
        )
        self.losses.append(float(outputs['loss']))


def choices(adapter):
    """Condense buffers and plain attributes: places, ranks, numbers."""
    plain = (int, float, str, tuple, type(None))
    return digest(
        *(buffer for _, buffer in sorted(adapter.named_buffers())),
        *(
            f'{key}={value}'
            for key, value in sorted(vars(adapter).items())
            if isinstance(value, plain)
        ),
    )


def digest(*values):
    """Condense tensors and words, bit for bit."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, torch.Tensor):
            value = value.detach().contiguous().view(-1).view(torch.uint8)
            found.update(value.numpy().tobytes())
        else:
            found.update(str(value).encode())
    return found.hexdigest()[:8]


def train(folder, name):
    """Train a case for two epochs; return what was noted."""
    settings = METHODS[name]
    load = settings['load']
    torch.manual_seed(get_rank())
    built = runner(
        folder / name,
        None,
        model=EvenModel(backbone_of(folder, **settings)),
        launcher='pytorch',
        cfg=dict(
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel', device_ids=None
            )
        ),
        load_from=str(folder / load) if load else None,
        randomness=dict(seed=0, diff_rank_seed=True),
        custom_hooks=[
            dict(type='mmflora.AdapterGradientHook'),
            dict(type='mmflora.IterationSeedHook'),
            dict(type='mmflora.CalibrationHook'),
            dict(type='mmflora.SampledRankHook'),
            *filter(None, [settings['hook']]),
        ],
    )
    built._train_dataloader['batch_size'] = 2
    watch = Watch()
    built.register_hook(watch)
    built.train()
    return vars(watch)


def trained(folder, name):
    """Train a case; one that fails on both ranks leaves the others alone."""
    try:
        return train(folder, name)
    except (RuntimeError, ValueError) as error:
        return dict(failed=f'{type(error).__name__}: {error}')


def other_signs(svd):
    """Return a decomposition as right as another."""

    def flipped(*args, **kwargs):
        u, s, vh = svd(*args, **kwargs)
        return torch.return_types.linalg_svd((-u, s, -vh))

    return flipped


def other_values(eigh):
    """Return eigenvalues of other kernels; the difference is exaggerated."""

    def changed(*args, **kwargs):
        values, vectors = eigh(*args, **kwargs)
        return torch.return_types.linalg_eigh((1.1 * values, vectors))

    return changed


def other_digits(average):
    """Return means of other kernels; the difference is exaggerated."""

    def changed(tensor):
        average(tensor)
        tensor *= 1 + 0.1 * torch.rand_like(tensor)

    return changed


def another_machine():
    """Within this context, numbers are those of another machine."""
    return (
        mock.patch('torch.linalg.svd', other_signs(torch.linalg.svd)),
        mock.patch('torch.linalg.eigh', other_values(torch.linalg.eigh)),
        mock.patch.object(
            calibration_hook,
            '_average',
            other_digits(calibration_hook._average),
        ),
    )


if __name__ == '__main__':
    torch.distributed.init_process_group('gloo')
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    if get_rank():
        for change in another_machine():
            change.start()
    report = {name: trained(folder, name) for name in names}
    path = folder / f'rank{get_rank()}.json'
    path.write_text(json.dumps(report))
    torch.distributed.destroy_process_group()
