# Half the rank, half the parameters.
_base_ = './flora-r16.py'

method = dict(adapter=dict(rank=8))
