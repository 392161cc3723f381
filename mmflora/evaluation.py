"""MMRotate's DOTA metric without its processes, for small data sets.

MMRotate's evaluation starts four Python processes each time, which import
the whole library again: most of a minute on a small machine, for milliseconds
of work on a few hundred boxes.  Not imported with mmflora, as it needs
MMRotate: name it in ``custom_imports``.
"""

import multiprocessing.dummy
from typing import Any
from unittest.mock import patch

from mmrotate.evaluation import DOTAMetric
from mmrotate.evaluation.functional import mean_ap

from mmflora.registry import METRICS


@METRICS.register_module()
class ThreadedDOTAMetric(DOTAMetric):
    """``DOTAMetric`` that compares boxes in threads of its own process.

    Arguments and results are those of ``mmrotate.DOTAMetric``.

    Example:
        >>> custom_imports = dict(imports=['mmflora', 'mmflora.evaluation'])
        >>> val_evaluator = dict(
        ...     type='mmflora.ThreadedDOTAMetric', metric='mAP'
        ... )
    """

    def compute_metrics(self, results: list) -> dict[str, Any]:
        """Compute the metrics; see ``DOTAMetric``."""

        def threads(method: str) -> Any:
            return multiprocessing.dummy

        with patch.object(mean_ap, 'get_context', threads):
            return super().compute_metrics(results)
