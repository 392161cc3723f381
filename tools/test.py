"""Test a model of MMDetection, MMRotate or MMSegmentation."""

import argparse
import copy
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

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config file')
    parser.add_argument(
        'checkpoint',
        help='a checkpoint of an adapted or a full model (a file, or the '
        'folder that DeepSpeed wrote), or an adapter: its folder or '
        '.safetensors file',
    )
    add_arguments(parser)
    parser.add_argument(
        '--out',
        help='where to dump predictions: a .pkl file; with MMSegmentation '
        'also a folder, for label maps as .png files',
    )
    parser.add_argument(
        '--show', action='store_true', help='show predictions in a window'
    )
    parser.add_argument(
        '--show-dir',
        help='draw predictions into this folder (MMDetection and MMRotate: '
        'below the work directory)',
    )
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2,
        help='how long --show shows each image, in seconds (default: 2)',
    )
    parser.add_argument(
        '--tta', action='store_true', help='augment at test time'
    )
    return parser.parse_args(argv)


def enable_drawing(cfg, args):
    """Draw predictions to a window or a folder."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ValueError(
            '--show and --show-dir need a visualization hook: add '
            "default_hooks=dict(visualization=dict(type='…')) to the config."
        )
    hook['draw'] = True
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_dir and cfg.default_scope == 'mmseg':
        cfg.visualizer['save_dir'] = args.show_dir
    elif args.show_dir:
        hook['test_out_dir'] = args.show_dir


def enable_dump(cfg, out):
    """Dump predictions beside evaluating them."""
    evaluators = cfg.get('test_evaluator')
    evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
    if out.endswith(('.pkl', '.pickle')):
        kind = 'DumpResults'
        if cfg.default_scope == 'mmdet':
            kind = 'mmdet.DumpDetResults'  # Masks as RLE, not as bitmaps.
        evaluators = [*evaluators, dict(type=kind, out_file_path=out)]
    elif cfg.default_scope == 'mmseg':
        evaluators = [dict(evaluators[0], output_dir=out), *evaluators[1:]]
    else:
        raise ValueError(
            f"--out is '{out}': give a file that ends in .pkl or .pickle (a "
            "folder is for MMSegmentation's label maps only)."
        )
    cfg.test_evaluator = evaluators


def enable_tta(cfg):
    """Augment the pipeline; :func:`wrap_for_tta` then merges predictions."""
    from mmflora.config.walk import find_dicts

    dataset = cfg.test_dataloader.dataset
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    if cfg.default_scope == 'mmdet':
        if any('mask_head' in node for _, node in find_dicts(cfg.model, '')):
            raise ValueError(
                '--tta: MMDetection merges boxes only, and this model has a '
                'mask head. Leave --tta out.'
            )
        cfg.setdefault('tta_model', _flip_model())
        cfg.setdefault('tta_pipeline', _flip_pipeline(dataset.pipeline))
    lacking = [k for k in ('tta_model', 'tta_pipeline') if k not in cfg]
    if lacking:
        raise ValueError(
            f'--tta: the config has no {" and no ".join(lacking)}, and '
            f'{cfg.default_scope} has no default. Add it, or leave --tta out.'
        )
    dataset.pipeline = cfg.tta_pipeline


def wrap_for_tta(runner, tta_model):
    """Merge predictions, once the checkpoint is loaded into the plain model.

    Its keys are those of the plain model; and what merges looks at the model
    itself, so it must not be wrapped for several processes.
    """
    from mmengine.hooks import PrepareTTAHook
    from mmengine.model import is_model_wrapper

    class Wrap(PrepareTTAHook):
        def before_test(self, runner):
            if is_model_wrapper(runner.model):
                runner.model = runner.model.module
            super().before_test(runner)

    runner.register_hook(Wrap(dict(tta_model)))


def _flip_model():
    nms = dict(type='nms', iou_threshold=0.5)
    tta_cfg = dict(nms=nms, max_per_img=100)
    return dict(type='DetTTAModel', tta_cfg=tta_cfg)


def _flip_pipeline(pipeline):
    """Replace the packing, the last step, by packing with and without flip."""
    flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
    pack = copy.deepcopy(pipeline[-1])
    pack['meta_keys'] = (*pack['meta_keys'], 'flip', 'flip_direction')
    augment = dict(type='TestTimeAug', transforms=[flips, [pack]])
    return [*pipeline[:-1], augment]


def prepare(args):
    """Turn the command line into a checked config."""
    from mmflora.config.check import check_paths, check_weights_file
    from mmflora.config.classes import check_classes
    from mmflora.config.launch import load_config, start_processes
    from mmflora.files.training_checkpoints import checkpoint_file

    cfg = load_config(args)
    check_weights_file('checkpoint', args.checkpoint)
    check_paths(cfg, 'test')
    check_classes(cfg, 'test')
    cfg.load_from = checkpoint_file(args.checkpoint)
    if args.show or args.show_dir:
        enable_drawing(cfg, args)
    if args.out is not None:
        enable_dump(cfg, args.out)
    if args.tta:
        enable_tta(cfg)
    start_processes(cfg)
    return cfg


def run(args):
    """Test as the command line says."""
    from mmflora.config.command_line import user_errors

    with user_errors():
        cfg = prepare(args)

    from mmflora.config.build import build_runner

    runner = build_runner(cfg)
    if args.tta:
        wrap_for_tta(runner, cfg.tta_model)
    runner.test()


def main():
    """Read the command line, and test."""
    args = parse_args()
    from mmflora.checkpoint import trusted_checkpoints

    with trusted_checkpoints(args.trust_checkpoints):
        run(args)


if __name__ == '__main__':
    main()
