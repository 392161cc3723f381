"""Runs several command lines of the tools one after another.

To start a tool takes 10 seconds, so tests that need several share a process.
Usage: python session.py '[["tools/train.py", "CONFIG"], ...]'

MMEngine writes the config of each run to its log and folder through a code
formatter, which takes longer than such a run itself; here it stays as it is.
"""

import json
import runpy
import sys

from yapf.yapflib import yapf_api


def leave_as_it_is(text, **_):
    """Stand in for the formatter: return the text, and that it is the same."""
    return text, False


if __name__ == '__main__':
    yapf_api.FormatCode = leave_as_it_is
    for command in json.loads(sys.argv[1]):
        print('>>>', *command, flush=True)
        sys.argv = command
        runpy.run_path(command[0], run_name='__main__')
