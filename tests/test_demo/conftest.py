from pathlib import Path

import pytest

from demo.shapes import DOMAINS, write_shapes

SIZES = dict(num_train=12, num_val=6, image_size=96, seed=3)


@pytest.fixture(scope='session')
def shapes(tmp_path_factory) -> dict[str, dict[str, Path]]:
    """Data roots of a small set: by domain, then by format."""
    root = tmp_path_factory.mktemp('shapes')
    return {name: write_shapes(root, name, **SIZES) for name in DOMAINS}


@pytest.fixture(params=list(DOMAINS))
def roots(request, shapes) -> dict[str, Path]:
    """Data roots of one domain, by format."""
    return shapes[request.param]
