import pytest

from .toy import write_base


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / 'base.pth')
