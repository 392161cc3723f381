"""Compare methods: run what a study file asks for, and report it.

    python tools/study.py STUDY.py                # run what is missing
    python tools/study.py STUDY.py --report DIR   # and report it

docs/study.md shows a study file.  An interrupted study goes on with the same
command; what is finished is not repeated.
"""

import argparse
import contextlib
import os
import sys
import warnings
from functools import partial
from pathlib import Path

# Read when torch is loaded, hence before any import of it: threads that wait
# sleep instead of spinning, which on busy cores costs a factor of 40.
if not {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'} & os.environ.keys():
    os.environ.update(OMP_WAIT_POLICY='PASSIVE', GOMP_SPINCOUNT='0')
# A clone works without being installed; what is installed comes first.
sys.path.append(str(Path(__file__).resolve().parents[1]))


def parse_args(argv=None):
    """Read the command line."""
    from mmflora.config.command_line import ConfigOptions

    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('study', help='path of the study file')
    parser.add_argument(
        '--work-dir',
        help='where runs and their log go; else work_dir of the study; else '
        './work_dirs/<name of the study>',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='change settings of the study: resources.processes=4',
    )
    parser.add_argument(
        '--report',
        metavar='DIR',
        type=Path,
        help='run nothing; write tables, plots and a page of what is finished',
    )
    parser.add_argument(
        '--all-pairs',
        action='store_true',
        help='in the report, compare every pair of methods',
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='list what is missing'
    )
    parser.add_argument(
        '--only',
        nargs='+',
        default=[],
        metavar='CELL',
        help='run or report these only: TASK/METHOD/SEED, or patterns: '
        "'camvid/*/0'",
    )
    parser.add_argument(
        '--retry', action='store_true', help='repeat runs that failed'
    )
    changed = parser.add_mutually_exclusive_group()
    changed.add_argument(
        '--accept-changes',
        action='store_true',
        help='repeat runs that were done with other settings or versions',
    )
    changed.add_argument(
        '--keep-changed',
        action='store_true',
        help='keep them; the log and the report say so',
    )
    parser.add_argument(
        '--repeat',
        metavar='CELL',
        help='repeat one finished run, TASK/METHOD/SEED, and compare',
    )
    return parser.parse_args(argv)


def run(args, say):
    """Do what the command line asks for; return the exit status."""
    from mmflora.study.dry_run import dry_run
    from mmflora.study.repeated_run import repeat_run
    from mmflora.study.run_changes import keep_changed, refuse_changes
    from mmflora.study.run_plan import StudyPlan
    from mmflora.study.run_pool import StudyRunner
    from mmflora.study.study_file import read_study
    from mmflora.study.study_report import write_report

    study = read_study(args.study, args.cfg_options, args.work_dir)
    if args.report:
        for path in write_report(
            study, args.report, args.all_pairs, args.only
        ):
            say(path)
        return 0
    plan = StudyPlan(study)
    if args.repeat:
        say(repeat_run(plan, args.repeat))
        return 0
    plan.check(args.only)
    if args.keep_changed:
        kept = keep_changed(plan, args.only, write=not args.dry_run)
        what = 'would be' if args.dry_run else 'were'
        say(f'{kept} runs with other settings {what} kept.')
    if not args.accept_changes:
        refuse_changes(plan, args.only)
    if args.dry_run:
        say(dry_run(plan, args.only))
        return 0
    failed = StudyRunner(plan, say).run(args.only, args.retry)
    if failed:
        say(
            f'{failed} runs failed; {plan.log} has the reasons. --retry '
            'repeats them.'
        )
    return int(failed > 0)


def main():
    """Run, report or repeat as the command line says."""
    args = parse_args()
    from mmengine.logging import MMLogger

    from mmflora.config.command_line import user_errors

    MMLogger.get_current_instance().setLevel('ERROR')
    warnings.simplefilter('ignore')
    say = partial(print, file=sys.stdout, flush=True)
    try:
        # What libraries print goes elsewhere.
        with user_errors(), contextlib.redirect_stdout(sys.stderr):
            status = run(args, say)
    except KeyboardInterrupt:
        say('Stopped. The same command goes on from here.')
        status = 130
    sys.exit(status)


if __name__ == '__main__':
    main()
