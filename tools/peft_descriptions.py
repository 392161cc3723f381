"""What each method of huggingface/peft is, in one line, and its paper.

A method that peft adds shows in docs/methods.md without a line until it gets
one here.
"""

_ARXIV = 'https://arxiv.org/abs/'

# Options for layers of 64 channels, where peft's defaults need wider ones.
OPTIONS = {
    'C3A': dict(block_size=32),
    'VBLORA': dict(vector_length=32, num_vectors=64),
}

# Settings of a method that make another one of it, its line and its paper.
VARIANTS = {
    'LORA': (
        dict(use_dora=True),
        'low-rank update of the direction, magnitude trained apart (DoRA)',
        _ARXIV + '2402.09353',
    )
}

DESCRIPTIONS = {
    'ADALORA': (
        'SVD-like factors whose ranks a schedule shares out among layers '
        '(with `mmflora.AdaLoRAHook`)',
        _ARXIV + '2303.10512',
    ),
    'BEFT': ('a trained offset of the bias', _ARXIV + '2509.15974'),
    'BOFT': (
        'rotation of the weight, a product of sparse butterfly factors',
        _ARXIV + '2311.06243',
    ),
    'C3A': ('block-circular convolution, by FFT', _ARXIV + '2407.19342'),
    'DEFT': (
        'projects a subspace out and writes a new one in its place',
        _ARXIV + '2509.22793',
    ),
    'DELORA': (
        'normalized rank-one terms with a learned bound on their strength',
        _ARXIV + '2503.18225',
    ),
    'FOURIERFT': (
        'few trained Fourier coefficients of the update',
        _ARXIV + '2405.03003',
    ),
    'FROD': (
        'sparse coefficients over a basis that layers share',
        'https://doi.org/10.1609/aaai.v40i31.39813',
    ),
    'GLORA': (
        'trained scale and shift of both weight and bias',
        _ARXIV + '2306.07967',
    ),
    'GRALORA': (
        'a grid of blocks with a low-rank update each',
        _ARXIV + '2505.20355',
    ),
    'HIRA': (
        'low-rank factor times the weight, entry by entry',
        'https://openreview.net/forum?id=TwJrTz9cRS',
    ),
    'HRA': (
        'rotation by a chain of Householder reflections',
        _ARXIV + '2405.17484',
    ),
    'IA3': ('one trained factor per channel', _ARXIV + '2205.05638'),
    'LILY': (
        'factors shared across layers, mixed by a router per input',
        _ARXIV + '2407.09946',
    ),
    'LN_TUNING': ('trained copies of the norm layers', _ARXIV + '2312.11420'),
    'LOHA': (
        'entry-wise product of two low-rank updates (FedPara)',
        _ARXIV + '2108.06098',
    ),
    'LOKR': (
        'Kronecker product of two small factors (LyCORIS)',
        _ARXIV + '2309.14859',
    ),
    'LORA': (
        'low-rank update; with `use_rslora` and other options',
        _ARXIV + '2106.09685',
    ),
    'MISS': ('one small matrix, repeated over shards', _ARXIV + '2409.15371'),
    'OFT': ('block-diagonal rotation of the weight', _ARXIV + '2306.07280'),
    'OSF': (
        'trains the small singular directions, orthogonally to the large',
        _ARXIV + '2504.07097',
    ),
    'PEANUT': (
        'update by a small network that reads the frozen weight',
        _ARXIV + '2410.01870',
    ),
    'PSOFT': (
        'rotation within the principal subspace of the weight',
        'https://openreview.net/forum?id=FSHrinMArK',
    ),
    'PVERA': ('VeRA with random, learned scaling', _ARXIV + '2512.07703'),
    'RANDLORA': (
        'full-rank sum of fixed random factors, scaled by trained vectors',
        _ARXIV + '2502.00987',
    ),
    'ROAD': ('2-D rotations and scales of outputs', _ARXIV + '2409.00119'),
    'SHIRA': (
        'a sparse part of the entries; `LIFT` and others do it in all layers',
        _ARXIV + '2406.13175',
    ),
    'SUPERTUNING': (
        'the entries of largest magnitude alone, as `LIFT` of a full rank',
        _ARXIV + '2607.09287',
    ),
    'TINYLORA': (
        'a few numbers, projected into the singular directions',
        _ARXIV + '2602.04118',
    ),
    'UNILORA': (
        'all low-rank factors read from one trained vector',
        _ARXIV + '2506.00799',
    ),
    'VBLORA': (
        'low-rank factors put together from one bank of vectors',
        _ARXIV + '2405.15179',
    ),
    'VERA': (
        'fixed random factors for all layers, trained vectors between them',
        _ARXIV + '2310.11454',
    ),
    'WAVEFT': (
        'few trained wavelet coefficients of the update',
        _ARXIV + '2505.12532',
    ),
}
