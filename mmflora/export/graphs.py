"""Graphs of plain models: torch.export and ONNX, with checked numbers."""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mmflora.files.atomic import staged_file

from .dense_outputs import (
    DenseOutputs,
    Difference,
    dense_outputs,
    largest_difference,
)
from .merged_state import merge_final

GRAPH_BOUND = 1e-4
"""Largest relative difference between a graph's outputs and the model's."""

_LARGEST_BATCH = 1024


@torch.no_grad()
def export_graph(
    model: nn.Module,
    images: Tensor,
    out: str | Path,
    backbone_only: bool = False,
    bound: float = GRAPH_BOUND,
) -> Difference:
    """Write a model's graph, run it and compare it with the model.

    The graph goes from preprocessed images to what
    :class:`~mmflora.export.dense_outputs.DenseOutputs` gives: it ends where
    boxes are chosen.  The number of images is free, their size is fixed.
    Adapters are merged first, in place.

    Args:
        model: A segmentor, a detector, or a backbone.
        images: Shape ``(N, 3, H, W)`` with two images at least.
        out: A ``.onnx`` file, which onnxruntime then runs, or a ``.pt2``
            file of ``torch.export``.
        backbone_only: Export the backbone alone.
        bound: Largest relative difference with which the file is kept.

    Returns:
        The larger difference of those for the images and for one of them.

    Raises:
        ImportError: If ONNX's packages are not installed.
        ValueError: If the suffix is another one, an adapter cannot be
            merged, or the difference is too large.  No file is left then.
    """
    write, run = _writer(Path(out).suffix)
    merge_final(model)
    network = DenseOutputs(model.eval(), backbone_only).eval()
    expected = dense_outputs(model, images, backbone_only)
    with staged_file(out) as partial:
        write(network, images, list(expected), partial)
        difference = largest_difference(
            expected, dict(zip(expected, run(partial, images), strict=True))
        )
        single = dense_outputs(model, images[:1], backbone_only)
        one = largest_difference(
            single, dict(zip(single, run(partial, images[:1]), strict=True))
        )
        worst = max(difference, one, key=lambda found: found.relative)
        if not worst.relative <= bound:
            raise ValueError(
                f"The graph's outputs differ from the model's by "
                f"{worst.relative:.2e} of the largest value (in '"
                f"{worst.where}'), more than the {bound:.0e} that are "
                'allowed; the file was not kept.'
            )
    return worst


_Write = Callable[[nn.Module, Tensor, list[str], Path], None]
_Run = Callable[[Path, Tensor], list[Tensor]]


def _writer(suffix: str) -> tuple[_Write, _Run]:
    if suffix == '.onnx':
        return _write_onnx, run_onnx
    if suffix == '.pt2':
        return _write_program, run_program
    raise ValueError(
        f"--out ends in '{suffix}': give a file that ends in .onnx, or in "
        ".pt2 for torch.export's format."
    )


def _program(
    network: nn.Module, images: Tensor
) -> torch.export.ExportedProgram:
    batch = torch.export.Dim('batch', min=1, max=_LARGEST_BATCH)
    return torch.export.export(
        network, (images,), dynamic_shapes=({0: batch},)
    )


def _write_program(
    network: nn.Module, images: Tensor, _: list[str], path: Path
) -> None:
    torch.export.save(_program(network, images), path)


def run_program(path: Path, images: Tensor) -> list[Tensor]:
    """Run a file of ``torch.export``.

    Args:
        path: The ``.pt2`` file.
        images: Shape ``(N, 3, H, W)``.
    """
    outputs = torch.export.load(path).module()(images)
    return [output.detach() for output in outputs]


def _write_onnx(
    network: nn.Module, images: Tensor, names: list[str], path: Path
) -> None:
    _check_onnx()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the exporter's own libraries
        program = torch.onnx.export(
            _program(network, images),
            (),
            dynamo=True,
            verbose=False,
            input_names=['images'],
            output_names=names,
        )
    if program is None:
        raise ValueError('torch.onnx.export returned no program.')
    program.save(str(path))


def run_onnx(path: Path, images: Tensor) -> list[Tensor]:
    """Run an ONNX file by onnxruntime, on the CPU.

    Args:
        path: The ``.onnx`` file.
        images: Shape ``(N, 3, H, W)``.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(path), providers=['CPUExecutionProvider']
    )
    outputs = session.run(None, {'images': images.numpy()})
    return [torch.from_numpy(output) for output in outputs]


def _check_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'ONNX files need a package that is missing ({error}). Install '
            'them: pip install -r requirements/export.txt '
            '-c requirements/constraints.txt'
        ) from error
