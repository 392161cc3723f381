# What the three forms of the generated data share: the classes, and the
# colors in which overlays draw them, of demo.shapes.
shapes = dict(
    data_help='Write the generated data with `python tools/make_shapes.py`.',
    metainfo=dict(
        classes=('circle', 'triangle', 'square', 'bar', 'star', 'cross'),
        palette=[
            (42, 157, 244),
            (240, 56, 107),
            (52, 199, 123),
            (255, 183, 0),
            (167, 101, 247),
            (232, 86, 12),
        ],
    ),
)
