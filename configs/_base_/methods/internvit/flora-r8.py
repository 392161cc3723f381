# Half the rank, half the parameters.
_base_ = './flora-r16.py'

method = dict(peft=dict(adapter=dict(rank=8)))
