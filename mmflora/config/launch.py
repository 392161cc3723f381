"""What ``tools/train.py`` and ``tools/test.py`` share.

The arguments, the config with the command line merged into it, and the start
of several processes.
"""

import argparse
import os
import subprocess
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device

from .build import read_config
from .command_line import ConfigOptions, add_trust_option
from .engines import check_engine, use_cpu_wrapper
from .peft.arguments import read_adapted
from .walk import find_dicts, use_plain_batch_norm

LAUNCHERS = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': (
        'OMPI_COMM_WORLD_RANK',
        'OMPI_COMM_WORLD_SIZE',
        'OMPI_COMM_WORLD_LOCAL_RANK',
    ),
}
"""Where each launcher says which process this is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing have in common."""
    parser.add_argument(
        '--work-dir',
        help='where logs and results go; else work_dir of the config; else '
        './work_dirs/<name of the config>',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='change settings of the config: a.b=1, a.b=x,y or '
        'a.b="[(x,y),z]"; a.0.b reaches into a list',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', *LAUNCHERS],
        default='none',
        help='how several processes were started (default: none)',
    )
    add_trust_option(parser)
    # torchrun says it in the environment; older launchers in either spelling.
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=0,
        help=argparse.SUPPRESS,
    )


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that the command line names and changes.

    Args:
        args: With ``config`` and the options of :func:`add_arguments`.

    Returns:
        The config, with ``launcher`` and ``work_dir`` set.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If it cannot be adapted as the command line says.
    """
    if hasattr(args, 'peft'):
        cfg = read_adapted(args.config, args, args.cfg_options)
    else:
        cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', Path(cfg.filename).stem)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    settle_workers(cfg)
    return cfg


def settle_workers(cfg: Config) -> None:
    """Drop options of worker processes from loaders that have none.

    PyTorch refuses ``num_workers=0`` with ``persistent_workers`` or
    ``prefetch_factor``, which the toolkits' configs set.
    """
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for _, loader in find_dicts(cfg.get(name), name):
            if loader.get('num_workers') == 0:
                loader.pop('persistent_workers', None)
                loader.pop('prefetch_factor', None)


def start_processes(cfg: Config) -> None:
    """Make several processes work where there is no accelerator.

    With one, MMEngine starts them.  Without, its start would select a CUDA
    device even for the gloo backend, so the process group is started here,
    and the settings that need a GPU are exchanged: ``device_ids`` of DDP, and
    SyncBN, which becomes a BatchNorm with statistics per process.

    Raises:
        ValueError: If the launcher has not said which process this is, or
            the config's runner and strategy do not fit.
    """
    check_engine(cfg)
    if cfg.launcher == 'none':
        return
    variables = LAUNCHERS[cfg.launcher]
    unset = [name for name in variables if name not in os.environ]
    if unset:
        raise ValueError(
            f'--launcher {cfg.launcher} was given, but {", ".join(unset)} is '
            'not in the environment. Start it through tools/dist_train.sh, '
            'tools/dist_test.sh, tools/slurm_train.sh or tools/slurm_test.sh.'
        )
    if get_device() != 'cpu':
        return
    _start_gloo(cfg, variables)
    unused = cfg.get('find_unused_parameters', False)
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=unused,
    )
    wrapper.update(cfg.get('model_wrapper_cfg') or {}, device_ids=None)
    use_cpu_wrapper(cfg, wrapper)
    use_plain_batch_norm(cfg.model)


def _start_gloo(cfg: Config, variables: tuple[str, str, str]) -> None:
    import torch.distributed as dist

    for name, variable in zip(
        ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), variables, strict=True
    ):
        os.environ[name] = os.environ[variable]
    if cfg.launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        hosts = subprocess.check_output(
            ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']],
            text=True,
        )
        os.environ['MASTER_ADDR'] = hosts.split()[0]
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')
    cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
    if not dist.is_initialized():
        dist.init_process_group('gloo')
