"""Keep, compare, share and swap adapters.

python tools/adapters.py list work_dirs
python tools/adapters.py export work_dirs/run/epoch_12.pth adapter
python tools/adapters.py import adapter epoch_12.pth --config CONFIG
python tools/adapters.py --help
"""

import argparse
import os
import runpy
import sys
from pathlib import Path

# Read when torch is loaded, hence before any import of it: threads that wait
# sleep instead of spinning, which on busy cores costs a factor of 40.
if not {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'} & os.environ.keys():
    os.environ.update(OMP_WAIT_POLICY='PASSIVE', GOMP_SPINCOUNT='0')
# A clone works without being installed; what is installed comes first.
sys.path += [str(folder) for folder in Path(__file__).resolve().parents[:2]]

from adapters_options import (  # noqa: E402
    add_exchange,
    add_extract,
    add_files,
    add_lower_ranks,
    add_tasks,
    add_trust,
)


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest='command', required=True)
    add_files(commands)
    add_exchange(commands)
    add_tasks(commands)
    add_lower_ranks(commands)
    add_extract(commands)
    add_trust(commands)
    commands.add_parser('merge', help='same as tools/merge.py', add_help=False)
    args, rest = parser.parse_known_args(argv)
    if rest and args.command != 'merge':
        parser.error(f'unrecognized arguments: {" ".join(rest)}')
    args.rest = rest
    # The option of merge is among the rest.
    args.trust_checkpoints = getattr(args, 'trust_checkpoints', False)
    return args


def run_list(args):
    """Print a line for each adapter."""
    from mmflora.adapter_files.describe import list_adapters

    lines = list_adapters(args.places)
    print('\n'.join(lines) if lines else 'No adapters found.')


def run_show(args):
    """Print what an adapter is, or print and draw its updates."""
    from mmflora.adapter_files import statistics
    from mmflora.adapter_files.describe import describe_adapter
    from mmflora.adapter_files.read import read_any

    if not args.plot:
        print(describe_adapter(read_any(args.adapter), args.layers))
        return
    if args.config:
        adapter = read_any(args.adapter)
        records = statistics.statistics_of(
            adapter, args.config, args.intruders
        )
    elif args.intruders:
        raise ValueError(
            '--intruders needs --config, to build the weights. A training '
            'counts them with intruders=10 in mmflora.UpdateStatisticsHook.'
        )
    else:
        records = statistics.recorded_statistics(args.adapter)
    print(statistics.statistics_table(statistics.last_records(records)))
    statistics.draw_statistics(records, args.plot)
    print(f'drawn to {args.plot}')


def run_diff(args):
    """Print and draw how two adapters differ."""
    from mmflora.adapter_files.compare import (
        compare_adapters,
        difference_table,
        draw_differences,
    )
    from mmflora.adapter_files.read import read_any

    names = args.first, args.second
    first, second = map(read_any, names)
    if args.config:
        from mmflora.adapter_files.compare_models import compare_models

        configs = args.config, args.second_config or args.config
        rows = compare_models(first, second, configs)
    else:
        rows = compare_adapters(first, second)
    print(difference_table(rows))
    if args.out:
        draw_differences(rows, names, args.out)
        print(f'drawn to {args.out}')


def run_export(args):
    """Make an adapter of a training checkpoint."""
    from mmflora.adapter_files import from_checkpoint, write_adapter
    from mmflora.adapter_files.describe import describe_adapter
    from mmflora.adapter_files.provenance import given_metrics

    if args.to:
        from mmflora.extract.exchange import export_foreign

        export_foreign(args.to, args.checkpoint, args.config, args.out)
        print(f'{args.out}: {megabytes(args.out)}, for {args.to}')
        return
    metrics = args.metrics and given_metrics(args.metrics)
    adapter = from_checkpoint(args.checkpoint, metrics)
    adapter.path = str(write_adapter(adapter, args.out))
    print(describe_adapter(adapter))
    print(
        f'{megabytes(args.checkpoint)} of checkpoint, '
        f'{megabytes(args.out)} of adapter'
    )


def run_import(args):
    """Make a checkpoint of an adapter."""
    from mmflora.adapter_files import read_adapter, write_checkpoint

    if args.origin:
        from mmflora.config.command_line import option
        from mmflora.extract.exchange import import_foreign

        adapter = import_foreign(args.origin, args.adapter, args.config)
        write_checkpoint(adapter, args.out)
        print(
            f'{args.out}: adapters alone, without neck and heads. Start a '
            f'training from it: {option("load_from", args.out)}'
        )
        return
    adapter = read_adapter(args.adapter)
    if args.base:
        adapter.move_base(args.base)
    if args.config:
        from mmflora.adapter_files.apply import build_and_check

        build_and_check(args.config, adapter)
    write_checkpoint(adapter, args.out)
    print(f'{args.out}: {megabytes(args.out)}; test it with tools/test.py')


def run_predict(args):
    """Predict with all tasks, and draw what each finds."""
    from mmflora.config.command_line import check_device
    from mmflora.tasks import MultiTaskInferencer

    check_device(args.device, '--device')
    sources = {name: rest for name, *rest in args.task}
    inferencer = MultiTaskInferencer(sources, args.device, args.base)
    tasks = inferencer.tasks
    predictions = inferencer(args.image)
    pictures = inferencer.draw(args.image, predictions, args.out)
    print(f'shared base: {tasks.base.bytes() / 1e6:.2f} MB')
    for name, picture in zip(predictions, pictures, strict=True):
        print(f'{name}: {tasks.own_bytes(name) / 1e6:.2f} MB more; {picture}')


def run_combine(args):
    """Write the weighted sum of adapters."""
    from mmflora.adapter_files import write_adapter
    from mmflora.adapter_files.describe import describe_adapter
    from mmflora.adapter_files.read import read_any
    from mmflora.tasks import combine_adapters

    adapters = [read_any(path) for path in args.adapters]
    combined = combine_adapters(adapters, args.weights)
    combined.path = str(write_adapter(combined, args.out))
    print(describe_adapter(combined))


def run_lower_ranks(args):
    """Write an adapter of lower ranks, and say what is lost."""
    from mmflora.adapter_files.convert import write_any
    from mmflora.adapter_files.read import read_any
    from mmflora.adapter_files.reduce import reduce_ranks
    from mmflora.adapter_files.reduced_report import (
        reduction_table,
        write_config_of,
    )
    from mmflora.config.command_line import parse_count

    adapter, rows = reduce_ranks(
        read_any(args.adapter),
        prefix=args.command == 'truncate',
        rank=args.rank,
        budget=args.budget and round(parse_count(args.budget, '--budget')),
        energy=args.energy,
        kernel_rank=args.kernel_rank,
    )
    print(reduction_table(rows))
    print(f'{write_any(adapter, args.out)}: {megabytes(args.out)}')
    if args.config:
        print(f'{write_config_of(args.config, adapter, args.out)}: its config')


def run_extract(args):
    """Make an adapter of a full fine-tuning, and say what it explains."""
    from mmflora.adapter_files.convert import write_any
    from mmflora.config.command_line import parse_count
    from mmflora.extract.command import extract
    from mmflora.extract.report import draw_spectra, energy_table

    adapter, rows = extract(
        args.config,
        args.base,
        args.finetuned,
        rank=args.rank,
        budget=args.budget and int(parse_count(args.budget, '--budget')),
        say=print,
    )
    print(energy_table(rows))
    if args.spectrum:
        draw_spectra(rows, args.spectrum)
        print(f'drawn to {args.spectrum}')
    print(f'{write_any(adapter, args.out)}: {megabytes(args.out)}')


def run_ticket(args):
    """Choose entries by a full fine-tuning, and say how to train them."""
    from mmflora.adapter_files.convert import write_any
    from mmflora.config.command_line import option
    from mmflora.extract.ticket import make_ticket

    adapter = make_ticket(args.config, args.finetuned, say=print)
    written = write_any(adapter, args.out)
    print(
        f'{written}: {megabytes(args.out)}, the places alone. Train them: '
        f'tools/train.py {args.config} --cfg-options '
        f'{option("load_from", args.out)}'
    )


def run_merge(args):
    """Hand over to tools/merge.py."""
    tool = str(Path(__file__).with_name('merge.py'))
    sys.argv = [tool, *args.rest]
    runpy.run_path(tool, run_name='__main__')


COMMANDS = {
    'list': run_list,
    'show': run_show,
    'diff': run_diff,
    'export': run_export,
    'import': run_import,
    'predict': run_predict,
    'combine': run_combine,
    'compress': run_lower_ranks,
    'truncate': run_lower_ranks,
    'extract': run_extract,
    'ticket': run_ticket,
    'merge': run_merge,
}


def megabytes(path):
    """Return the size of a file, or of a folder's files."""
    from mmflora.adapter_files.describe import bytes_at

    return f'{bytes_at(path) / 1e6:.2f} MB'


def main(argv=None):
    """Do what the command line says."""
    args = parse_args(argv)
    from mmflora.checkpoint import trusted_checkpoints
    from mmflora.config.command_line import user_errors

    with user_errors(), trusted_checkpoints(args.trust_checkpoints):
        COMMANDS[args.command](args)


if __name__ == '__main__':
    main()
