"""Runs several command lines of the tools one after another.

To start a tool takes 10 seconds, so tests that need several share a process.
Usage: python session.py '[["tools/train.py", "CONFIG"], ...]'
"""

import json
import runpy
import sys

if __name__ == '__main__':
    for command in json.loads(sys.argv[1]):
        print('>>>', *command, flush=True)
        sys.argv = command
        runpy.run_path(command[0], run_name='__main__')
