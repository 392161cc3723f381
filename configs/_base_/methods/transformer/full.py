# Full fine-tuning: every parameter of the backbone trains. A recipe says how
# the learning rate falls in it.
method = dict(peft=dict(adapter=dict(type='Full'), targets='.*'))
