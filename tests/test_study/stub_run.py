"""Stands in for mmflora.study.one_run: notes a known metric, no training.

Usage: python stub_run.py FOLDER BEHAVIOR, where BEHAVIOR is a JSON dict:
`seconds` to take, `fail`: part of the cell to fail on, `hang`: likewise,
`metric`: its name, `versions`: of the packages.
"""

import fcntl
import json
import os
import sys
import time
from pathlib import Path


def main():
    folder, behavior = Path(sys.argv[1]), json.loads(sys.argv[2])
    spec = json.loads((folder / 'run.json').read_text())
    line = spec['line']
    cell = '{task}/{method}/{seed} {stage} {lr}'.format(**line)
    began = time.time()
    (folder / 'pid').write_text(str(os.getpid()))
    if behavior.get('hang', '--') in cell:
        time.sleep(60)
    time.sleep(behavior.get('seconds', 0))
    if behavior.get('fail', '--') in cell:
        print('Traceback', 'RuntimeError: out of luck', sep='\n')
        sys.exit(3)
    value = (line['lr'] == 0.004) + line['seed'] / 10
    line.update(
        status='finished',
        metrics={behavior.get('metric', 'mIoU'): value},
        versions=behavior['versions'],
        seconds=time.time() - began,
        span=[began, time.time()],
        cpus=sorted(os.sched_getaffinity(0)),
        threads=os.environ['OMP_NUM_THREADS'],
        gpus=os.environ.get('CUDA_VISIBLE_DEVICES'),
    )
    with open(spec['log'], 'a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
    main()
