"""One of the processes that train the toy model by DeepSpeed.

Usage, in the folder of the tests: python -m test_engine.deepspeed_process
FOLDER BASE STAGE METHOD, with RANK and its like in the environment.
"""

import json
import sys
from pathlib import Path

import torch

from .fsdp_process import FULL, SGD, sharded

if __name__ == '__main__':
    folder, base, stage, method = sys.argv[1:]
    torch.distributed.init_process_group('gloo')
    rank = torch.distributed.get_rank()
    strategy = dict(
        type='mmflora.DeepSpeedStrategy',
        zero_optimization=dict(stage=int(stage)),
    )
    options = dict(
        method=FULL if method == 'full' else None, strategy=strategy, **SGD
    )
    target = Path(folder)
    whole = sharded(target / 'whole', base, **options)
    whole.train()
    losses = whole.message_hub.log_scalars['train/loss'].data[0]
    half = sharded(target / 'half', base, **options)
    half._resume, half._load_from = True, str(target / 'whole/epoch_1.pth')
    half.train()
    report = dict(losses=[float(loss) for loss in losses])
    (target / f'rank{rank}.json').write_text(json.dumps(report))
    torch.distributed.destroy_process_group()
