"""Time and memory of whole training steps of any config.

The config's own model, optimizer and mixed precision train on a made batch,
over random weights, so that no file is needed: neither data nor a base.

    python benchmarks/training_step.py CONFIG --steps 10
"""

import argparse
import json
import os
import re
import resource
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# Read when torch is loaded: idle threads sleep instead of spinning.
if not {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'} & os.environ.keys():
    os.environ.update(OMP_WAIT_POLICY='PASSIVE', GOMP_SPINCOUNT='0')

PEERS = {'peft-lora': dict(use_dora=False), 'peft-dora': dict(use_dora=True)}


def parse_args(argv=None):
    """Read the command line."""
    from mmflora.config.command_line import ConfigOptions

    parser = argparse.ArgumentParser(
        description=__doc__.strip().splitlines()[0]
    )
    add = parser.add_argument
    add('config', help='path or zoo name of a config')
    add('--peft', metavar='METHOD', help='adapt the config, as train.py does')
    add(
        '--peer',
        choices=PEERS,
        help="let huggingface/peft adapt the backbone's linear layers; for a "
        'config with a frozen backbone',
    )
    add('--rank', type=int, default=16, help="the peer's rank")
    add('--steps', type=int, default=10, help='steps that count')
    add('--warmup', type=int, default=3, help='steps that do not')
    add('--batch', type=int, help="images (default: the config's)")
    add('--size', help="image size, HxW (default: the pipeline's)")
    add('--device', choices=['cpu', 'cuda'], help='default: cuda, if any')
    add(
        '--compile',
        metavar='BACKEND',
        help='torch.compile the backbone, by inductor or another backend',
    )
    add('--forecast', action='store_true', help='predict the memory too')
    add('--out', type=Path, help='a JSON file to write')
    add(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='change settings of the config, as tools/train.py does',
    )
    args = parser.parse_args(argv)
    if args.steps < 1 or args.warmup < 0:
        parser.error('--steps: at least 1; --warmup: at least 0')
    return args


def adapt_by_peer(step, peer, rank):
    """Let huggingface/peft adapt every linear layer of the backbone."""
    from mmengine.optim import build_optim_wrapper
    from peft import LoraConfig, inject_adapter_in_model
    from torch import nn

    backbone = step.model.backbone
    names = [
        re.escape(name)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear)
    ]
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=f'({"|".join(names)})',
        **PEERS[peer],
    )
    inject_adapter_in_model(config, backbone)
    optimizer = dict(type='AdamW', lr=1e-4, weight_decay=0.05)
    step.optim_wrapper = build_optim_wrapper(
        step.model, dict(type='OptimWrapper', optimizer=optimizer)
    )


def measure(args, cfg, shape, device):
    """Run the steps; return seconds, and bytes at the peak."""
    import torch
    from mmengine.registry import DefaultScope

    from mmflora.memory_estimate.batch import make_batch
    from mmflora.memory_estimate.step import TrainingStep

    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(0)
        step = TrainingStep(cfg, device)
        if args.peer:
            adapt_by_peer(step, args.peer, args.rank)
        if args.compile:
            step.model.backbone.compile(backend=args.compile)
        trained = sum(
            p.numel() for p in step.model.parameters() if p.requires_grad
        )
        batch = make_batch(cfg, shape)
        times = []
        for index in range(args.warmup + args.steps):
            if index == args.warmup and device == 'cuda':
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            with step.autocast():
                losses = step.model.train_step(batch, step.optim_wrapper)
            if device == 'cuda':
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
            print(
                f'step {index + 1} of {args.warmup + args.steps}: '
                f'{times[-1]:.3f} s',
                file=sys.stderr,
                flush=True,
            )
    loss = float(losses['loss'].detach())
    if loss != loss:
        raise ValueError(f'the loss of the last step is {loss}')
    return dict(times=times[args.warmup :], loss=loss, trained=trained)


def peak_bytes(device):
    """Return the most bytes that tensors took, and that the device gave."""
    import torch

    if device == 'cuda':
        return dict(
            peak=torch.cuda.max_memory_allocated(),
            reserved=torch.cuda.max_memory_reserved(),
        )
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return dict(resident=resident)


def run(args):
    """Measure as the command line says; return what was found."""
    import torch

    from mmflora.config.build import read_config, register_toolkit
    from mmflora.config.peft import peft_config
    from mmflora.memory_estimate import batch_shape, parse_image_size, predict

    has_gpu = torch.cuda.is_available()
    device = args.device or ('cuda' if has_gpu else 'cpu')
    cfg = read_config(args.config, args.cfg_options)
    if args.peft:
        cfg = peft_config(cfg, args.peft)
    register_toolkit(cfg)
    size = args.size and parse_image_size(args.size)
    shape = batch_shape(cfg, args.batch, size)
    found = dict(images=shape.images, height=shape.height, width=shape.width)
    if args.forecast:
        forecast = predict(cfg, [shape], device == 'cuda')[0]
        found['forecast'] = forecast.peak
    found |= measure(args, cfg, shape, device) | peak_bytes(device)
    found['seconds'] = statistics.median(found['times'])
    return found


def main(argv=None):
    """Measure, print and write."""
    args = parse_args(argv)
    found = run(args)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + '\n')
    print(json.dumps(found))


if __name__ == '__main__':
    main()
