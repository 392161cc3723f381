# The plain backbone with all its parameters trained.
method = dict(type='mmflora.InternViT')
