# The methods of the studies, seeds, learning rates and resources.
#
# LoRA's form of loralib has many parameters on depthwise kernels; FLoRA gets
# the budgets of its two other forms.
methods = [
    'full',
    # As detectors with batch norms are fine-tuned as a rule: norms are frozen.
    dict(
        name='full-frozen-bn',
        method=dict(adapter=dict(type='Full'), exclude=r'(.*\.)?(bn\d|bn)'),
    ),
    'frozen',
    'bitfit',
    'norm-tuning',
    'lora-r8',
    'lora-spatial-r8',
    'lora-dw-full-r8',
    'dora-r8',
    'ssf',
    'pissa-r8',
    'lokr-r8',
    'loha-r8',
    dict(name='flora-small', method='flora-r16', budget='lora-spatial-r8'),
    dict(name='flora-large', method='flora-r16', budget='lora-r8'),
]
by_name = {
    entry['name']: entry
    for entry in (
        dict(name=method, method=method) if isinstance(method, str) else method
        for method in methods
    )
}
baselines = [
    'full',
    'full-frozen-bn',
    'frozen',
    'bitfit',
    'norm-tuning',
    'lora-r8',
    'lora-spatial-r8',
    'lora-dw-full-r8',
    'dora-r8',
    'ssf',
    'pissa-r8',
    'lokr-r8',
    'loha-r8',
]
seeds = [0, 1, 2, 3, 4]
lrs = [3e-4, 1e-3, 3e-3]
resources = dict(processes=2, threads=1)
