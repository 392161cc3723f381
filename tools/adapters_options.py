"""The command lines of tools/adapters.py."""

from pathlib import Path

FORMS = 'a folder, or a file that ends in .safetensors'
ANY_FORM = f'{FORMS}, or a checkpoint (.pth)'


def add_files(commands):
    """Add what only looks at files."""
    listing = commands.add_parser('list', help='list the adapters in folders')
    listing.add_argument('places', nargs='*', type=Path, default=[Path()])
    show = commands.add_parser('show', help='say what is in an adapter')
    show.add_argument(
        'adapter',
        help=f'{ANY_FORM}; with --plot also the work directory of a run with '
        'mmflora.UpdateStatisticsHook',
    )
    show.add_argument('--layers', action='store_true', help='list all layers')
    show.add_argument(
        '--plot',
        metavar='FILE',
        help='draw the size of each update and what it amplifies, over the '
        'layers, and over the training of a run',
    )
    show.add_argument(
        '--config', help='with --plot: the config of the adapter'
    )
    show.add_argument(
        '--intruders',
        type=int,
        default=0,
        metavar='N',
        help='with --plot: search the N leading singular vectors of each '
        'adapted weight for intruder dimensions (10 in their paper)',
    )
    diff = commands.add_parser('diff', help='compare two adapters')
    diff.add_argument('first', help=ANY_FORM)
    diff.add_argument('second', help=ANY_FORM)
    diff.add_argument(
        '--config',
        help='the config of the first: build the models and compare whole '
        'changes; for methods whose updates depend on the base',
    )
    diff.add_argument(
        '--second-config', help='that of the second, if it is another'
    )
    diff.add_argument('--out', help='a picture of the comparison to write')


def foreign(name):
    """Return the name of another project's format, nothing for our own."""
    return '' if name == 'mmflora' else name


def add_exchange(commands):
    """Add the ways from checkpoints to adapters, and back."""
    export = commands.add_parser(
        'export', help='make an adapter of a training checkpoint'
    )
    export.add_argument('checkpoint', help='a .pth of a run of mmflora')
    export.add_argument('out', help=FORMS)
    export.add_argument(
        '--metrics',
        nargs='+',
        metavar='NAME=VALUE',
        help='what it reached (default: what validation logged at its step)',
    )
    export.add_argument(
        '--to',
        type=foreign,
        help="peft: a folder of huggingface/peft, of a LoRA by 'HFPEFT' "
        '(default: mmflora)',
    )
    export.add_argument('--config', help='with --to peft: its config')
    imported = commands.add_parser(
        'import', help='make a checkpoint for tools/test.py of an adapter'
    )
    imported.add_argument('adapter', help=FORMS)
    imported.add_argument('out', help='the checkpoint to write (.pth)')
    imported.add_argument(
        '--config',
        help='build this config and check that the adapter fits its model '
        'and base, before anything is written',
    )
    imported.add_argument('--base', help='where the base is, if elsewhere')
    imported.add_argument(
        '--from',
        dest='origin',
        type=foreign,
        help="whose adapter it is: peft, a LoRA folder of huggingface/peft's; "
        "or authors, a state dict of FLoRA's authors; with --config, to "
        'start a training (default: mmflora)',
    )


def add_tasks(commands):
    """Add what concerns several adapters of one base."""
    predict = commands.add_parser(
        'predict', help='predict for one image with several tasks'
    )
    predict.add_argument('image')
    predict.add_argument(
        '--task',
        nargs=3,
        action='append',
        required=True,
        metavar=('NAME', 'CONFIG', 'ADAPTER'),
        help='a task; give it once for each',
    )
    predict.add_argument('--out', required=True, help='folder for pictures')
    predict.add_argument('--base', help='where the base is, if elsewhere')
    predict.add_argument(
        '--device',
        default='cpu',
        help='where to compute, such as cuda or cuda:1 (default: cpu)',
    )
    combine = commands.add_parser(
        'combine', help='make the weighted sum of adapters of one method'
    )
    combine.add_argument('out', help=FORMS)
    combine.add_argument('adapters', nargs='+', help=ANY_FORM)
    combine.add_argument('--weights', nargs='+', type=float, required=True)


def add_lower_ranks(commands):
    """Add what makes adapters of lower ranks, without data."""
    for name, what in (
        ('compress', 'make the nearest adapter of lower ranks'),
        ('truncate', 'keep the first components of nested ranks'),
    ):
        lower = commands.add_parser(name, help=what)
        lower.add_argument('adapter', help=ANY_FORM)
        lower.add_argument('out', help=ANY_FORM)
        size = lower.add_mutually_exclusive_group(required=True)
        size.add_argument('--rank', type=int, help='the rank of all layers')
        size.add_argument(
            '--budget',
            help='the most parameters of all adapters, such as 200k; they go '
            'where they keep most of the updates',
        )
        size.add_argument(
            '--energy',
            type=float,
            help="the part of each update's squared norm to keep, such as 0.9",
        )
        lower.add_argument(
            '--kernel-rank',
            type=int,
            help="FLoRA: the rank of the kernels' modes (default: as trained)",
        )
        lower.add_argument(
            '--config',
            help='the config of the adapter: write one for the result beside '
            'it, named as OUT, with the ending .py',
        )


def add_extract(commands):
    """Add what makes adapters of weights."""
    extract = commands.add_parser(
        'extract', help='make the adapter nearest to a full fine-tuning'
    )
    extract.add_argument('base', help='the weights it started from')
    extract.add_argument('finetuned', help='its checkpoint (.pth)')
    extract.add_argument('out', help=f'{FORMS}, or a checkpoint (.pth)')
    extract.add_argument(
        '--config', required=True, help='a FLoRA config of the same model'
    )
    size = extract.add_mutually_exclusive_group()
    size.add_argument('--rank', type=int, help="(default: the config's)")
    size.add_argument(
        '--budget', help='the most parameters of all adapters, such as 200k'
    )
    extract.add_argument('--spectrum', help='a picture to write')
    ticket = commands.add_parser(
        'ticket',
        help='choose the entries that a full fine-tuning has moved most',
    )
    ticket.add_argument('finetuned', help='its checkpoint (.pth)')
    ticket.add_argument('out', help=f'{FORMS}, or a checkpoint (.pth)')
    ticket.add_argument(
        '--config',
        required=True,
        help='a config with LotteryTicket adapters over the same base',
    )


def add_trust(commands):
    """Add the option that lets checkpoints run code, to each command.

    As ``mmflora.config.command_line.add_trust_option``, without the seconds
    that an import of mmflora takes.
    """
    for command in commands.choices.values():
        command.add_argument(
            '--trust-checkpoints',
            action='store_true',
            help='read checkpoints that hold other objects than tensors and '
            'plain values, too: they can run any code that their author chose',
        )
