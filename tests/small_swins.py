"""The recipes of Swin-L, made small; they have no twins."""

_SWIN = {
    'model.backbone.backbone.embed_dims': 16,
    'model.backbone.backbone.depths': [1, 1, 2, 1],
    'model.backbone.backbone.num_heads': [1, 1, 2, 2],
    'model.backbone.backbone.window_size': 4,
    'model.backbone.peft.autocast': None,
}
# Settings by config, for images of 64 x 64.
SHRUNK = {
    'flora/dino-5scale_swin-l_flora-r16_coco.py': {
        **_SWIN,
        'model.neck.in_channels': [16, 32, 64, 128],
        'model.num_queries': 20,
        'model.encoder.num_layers': 1,
        'model.decoder.num_layers': 2,
    },
    'flora/mask2former_swin-l_flora-r16_ade20k-640x640.py': {
        **_SWIN,
        'model.decode_head.in_channels': [16, 32, 64, 128],
        'model.decode_head.num_queries': 10,
        'model.decode_head.pixel_decoder.encoder.num_layers': 1,
        'model.decode_head.transformer_decoder.num_layers': 3,
        'model.data_preprocessor.size': (64, 64),
    },
}
