"""Generated data sets in the formats of COCO, DOTA and ADE20K."""

from .ade20k import SEG_CLASSES, SEG_PALETTE
from .classes import CLASSES, PALETTE
from .contact_sheet import draw_contact_sheet
from .domains import DOMAINS, Domain
from .generate import FORMATS, MIN_IMAGE_SIZE, read_counts, write_shapes
from .scenes import Scene, SceneObject, draw_scene

__all__ = [
    'CLASSES',
    'DOMAINS',
    'FORMATS',
    'MIN_IMAGE_SIZE',
    'PALETTE',
    'SEG_CLASSES',
    'SEG_PALETTE',
    'Domain',
    'Scene',
    'SceneObject',
    'draw_contact_sheet',
    'draw_scene',
    'read_counts',
    'write_shapes',
]
