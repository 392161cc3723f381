"""Train a model of MMDetection, MMRotate or MMSegmentation."""

import argparse
import os
import sys
from pathlib import Path

# Read when torch is loaded, hence before any import of it: threads that wait
# sleep instead of spinning, which on busy cores costs a factor of 40.
if not {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'} & os.environ.keys():
    os.environ.update(OMP_WAIT_POLICY='PASSIVE', GOMP_SPINCOUNT='0')
# A clone works without being installed; what is installed comes first.
sys.path.append(str(Path(__file__).resolve().parents[1]))


def parse_args(argv=None):
    """Read the command line."""
    from mmflora.config.launch import add_arguments
    from mmflora.config.peft.arguments import add_peft_arguments

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config',
        help="path of the config file, or a toolkit's own: "
        'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    )
    add_arguments(parser)
    add_peft_arguments(parser)
    parser.add_argument(
        '--dump',
        metavar='FILE.py',
        help='write the whole config here, and do not train',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint, or, without a value, from the last '
        'one in the work directory',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help="train in mixed precision: bfloat16 inside mmflora's backbones, "
        'with float32 heads; for any other backbone AmpOptimWrapper',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate to the real number of images per step',
    )
    parser.add_argument(
        '--no-validate',
        action='store_true',
        help='train without validation',
    )
    return parser.parse_args(argv)


def enable_amp(cfg):
    """Turn mixed precision on, where the model can stand it."""
    from mmengine.device import get_device

    from mmflora.config.walk import frozen_parts

    parts = list(frozen_parts(cfg))
    for part in parts:
        now = part.settings.get('autocast') or 'bfloat16'
        if part.path and part.casts:
            part.change(autocast=now)
        elif not part.path:
            part.node['autocast'] = now
    casts = any(part.casts for part in parts)
    if casts or cfg.optim_wrapper.type == 'AmpOptimWrapper':
        return
    if cfg.optim_wrapper.type != 'OptimWrapper' or get_device() == 'cpu':
        raise ValueError(
            "--amp: no backbone of the model has an 'autocast', so it would "
            'be AmpOptimWrapper, which needs a GPU and an optim_wrapper of '
            f"type 'OptimWrapper' (it is '{cfg.optim_wrapper.type}', on "
            f"'{get_device()}'). Leave --amp out, or use a backbone such as "
            'mmflora.FLoRAConvNeXt.'
        )
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.loss_scale = 'dynamic'


def enable_auto_scale_lr(cfg):
    """Turn the scaling of the learning rate on."""
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise ValueError(
            '--auto-scale-lr: the config does not say for how many images '
            'its learning rate is meant. Add '
            'auto_scale_lr=dict(enable=False, base_batch_size=16).'
        )
    cfg.auto_scale_lr.enable = True


def set_resume(cfg, resume):
    """Say which checkpoint to go on from."""
    from mmflora.adapter_files import is_adapter
    from mmflora.config.check import check_weights_file
    from mmflora.config.command_line import option
    from mmflora.files.training_checkpoints import checkpoint_file

    if resume is None:
        return
    cfg.resume = True
    if resume == 'auto':
        cfg.load_from = None
    else:
        check_weights_file('--resume', resume)
        if is_adapter(resume):
            raise ValueError(
                f"--resume is '{resume}', an adapter, which holds neither "
                'optimizer nor schedule. Start a training from it: '
                + option('load_from', resume)
            )
        if os.path.isdir(resume):
            # DeepSpeed finds its files by the folder's last name.
            resume = os.path.normpath(resume)
            strategy = str(cfg.get('strategy', {}).get('type'))
            if not strategy.endswith('DeepSpeedStrategy'):
                raise ValueError(
                    f"--resume is '{resume}', a folder: it holds the "
                    "optimizer's state for DeepSpeed alone, and the config's "
                    f'strategy is {strategy}. Resume with the config that '
                    'wrote it, or start a training from its weights: '
                    + option('load_from', checkpoint_file(resume))
                )
        cfg.load_from = resume


def prepare(args):
    """Turn the command line into a checked config."""
    from mmflora.config.check import check_paths
    from mmflora.config.classes import check_classes
    from mmflora.config.launch import load_config, start_processes
    from mmflora.config.peft.arguments import dump_config

    cfg = load_config(args)
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.auto_scale_lr:
        enable_auto_scale_lr(cfg)
    set_resume(cfg, args.resume)
    if args.amp:
        enable_amp(cfg)
    if args.dump is not None:
        dump_config(cfg, args.dump)
        print(f'{args.dump}: written. Train it with tools/train.py.')
        sys.exit()
    check_paths(cfg, 'train')
    check_classes(cfg, 'train')
    start_processes(cfg)
    return cfg


def run(args):
    """Train as the command line says."""
    from mmflora.config.command_line import user_errors

    with user_errors():
        cfg = prepare(args)

    from mmflora.config.build import build_runner

    runner = build_runner(cfg)
    runner.train()


def main():
    """Read the command line, and train."""
    args = parse_args()
    from mmflora.checkpoint import trusted_checkpoints

    with trusted_checkpoints(args.trust_checkpoints):
        run(args)


if __name__ == '__main__':
    main()
