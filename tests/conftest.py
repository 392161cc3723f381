import copy
import gc
import os
import pickle
import sys

# Read by OpenMP when torch is loaded, hence before anything imports torch:
# idle threads sleep instead of spinning, and tiny models need one thread.
for name, value in {
    'OMP_WAIT_POLICY': 'PASSIVE',
    'GOMP_SPINCOUNT': '0',
    'OMP_NUM_THREADS': '1',
    'MKL_NUM_THREADS': '1',
    'MPLBACKEND': 'Agg',
}.items():
    os.environ.setdefault(name, value)

import pytest  # noqa: E402

# What is imported stays until the end. Python's garbage collector would walk
# through it again and again: half a second each time that all is collected.
gc.disable()
_IMPORTED = [0]


def pytest_collection_finish():
    gc.enable()


def pytest_runtest_setup():
    """Take what was imported since out of the garbage collector's sight."""
    if len(sys.modules) > _IMPORTED[0] + 100:
        gc.collect()
        gc.freeze()
        _IMPORTED[0] = len(sys.modules)


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker('gpu')]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason='no CUDA device'))


@pytest.fixture(params=['deepcopy', 'pickle'])
def copy_of(request):
    """Return a way to copy a module."""
    if request.param == 'deepcopy':
        return copy.deepcopy
    return lambda module: pickle.loads(pickle.dumps(module))


@pytest.fixture
def log_text(caplog):
    """Return what was logged so far; MMEngine's loggers do not propagate."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('INFO')
    logger.addHandler(caplog.handler)
    yield lambda: caplog.text
    logger.removeHandler(caplog.handler)
    logger.setLevel(level)
