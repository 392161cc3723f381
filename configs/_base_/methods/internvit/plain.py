# The plain backbone, every parameter of which trains.
method = dict(type='mmflora.InternViT')
