"""Files from the web, and what to do where there is none."""

from pathlib import Path
from urllib.parse import urlparse

import torch


def download(url: str, folder: str | None = None) -> str:
    """Return the path of a file from the web, kept where PyTorch keeps it.

    Args:
        url: Its address.
        folder: Where to keep it; by default the cache of ``torch.hub``.

    Raises:
        ConnectionError: If it is not there, and cannot be fetched.
    """
    path = Path(
        folder or Path(torch.hub.get_dir(), 'checkpoints'),
        Path(urlparse(url).path).name,
    )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path))
        except OSError as error:
            raise not_reached(url, str(path), error) from error
    return str(path)


def not_reached(source: str, place: str, error: OSError) -> ConnectionError:
    """Return the error for weights that cannot be fetched.

    Args:
        source: Their address.
        place: Where the cache is that would hold them.
        error: What happened.
    """
    reason = ' '.join(str(error).split()) or type(error).__name__
    return ConnectionError(
        f"'{source}' cannot be downloaded: {reason} On a machine without "
        'network, fetch the weights elsewhere. Copy the cache from there '
        f'({place}), or name a file: init_cfg.checkpoint=FILE'
    )
