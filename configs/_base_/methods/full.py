# Full fine-tuning: the plain backbone, every parameter of which trains.
method = dict(type='mmflora.ConvNeXt')
