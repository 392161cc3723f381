"""The systems of docs/systems.md: where each is, or why it is not here.

A place is a class of mmflora's, ``peft:TYPE``, ``config:NAME``, ``hook:NAME``
or ``tool:NAME``.  Without one, the system is not here.
"""

_TERM = 'a term of the loss in training; none of these is here yet'
_STEP = 'an optimizer, which no adapter needs to know; any of PyTorch works'
_FAR = "out of a dense-vision library's reach"

Rows = list[tuple[str, tuple[str, ...], str]]
SYSTEMS: dict[str, Rows] = {
    'Starts': [
        ('PiSSA', ('PiSSA',), ''),
        ('OLoRA', ('OLoRA',), ''),
        ('LoRA-XS', ('LoRAXS',), ''),
        ('SVFit', ('SVFit',), ''),
        ('LoLDU', ('LoLDU',), ''),
        ('SoKA', ('SoKA',), ''),
        ('CorDA', ('CorDA',), 'both modes; needs a calibration'),
        ('LoRA-SB', ('LoRASB',), 'needs a calibration'),
        (
            'LoRA-SB for Tucker factors',
            ('FLoRA',),
            "`start='gradient'`: HOSVD of the averaged gradient",
        ),
        (
            'PiSSA for Tucker factors',
            ('FLoRA',),
            "`start='weight'`: HOSVD of the weight",
        ),
        (
            'EVA',
            ('EVA',),
            'ranks shared out among layers; needs a calibration',
        ),
        ('LoRA-GA', ('LoRAGA',), 'needs a calibration'),
    ],
    'Shared parameters': [
        ('FacT (TT and TK)', ('FacT',), "`form='tt'` and `form='tk'`"),
        ('LoTR', ('LoTR',), ''),
        ('SuperLoRA', ('SuperLoRA',), 'grouped, reshaped, projected'),
        ('Block-LoRA', ('BlockLoRA',), ''),
        ('VeRA', ('peft:VERA',), 'linear layers alone'),
        ('RandLoRA', ('peft:RANDLORA',), 'linear layers alone'),
        ('Queryable LoRA', ('QueryableLoRA',), 'cannot be merged'),
    ],
    'Other bases, and nested ranks': [
        ('LoCA', ('LoCA',), ''),
        ('SNELL', ('SNELL',), ''),
        ('SNELLA', ('SNELLA', 'hook:SNELLAHook'), ''),
        ('Compacter', ('Compacter',), ''),
        (
            'MatryoshkaLoRA',
            ('MatryoshkaLoRA', 'tool:rank_curve.py'),
            'every prefix of the rank is an adapter',
        ),
        ('MatryoshkaLoRA for Tucker factors', ('MatryoshkaFLoRA',), ''),
        ('DyLoRA', ('DyLoRA', 'hook:SampledRankHook'), ''),
        (
            'LoRA-Squeeze, for LoRA and FLoRA',
            ('hook:RankAnnealingHook', 'tool:adapters.py'),
            'in stages during the training, or `compress` behind it',
        ),
        (
            'AdaLoRA',
            ('peft:ADALORA', 'hook:AdaLoRAHook'),
            'a schedule shares out ranks among layers',
        ),
    ],
    'Sparse updates': [
        ('SaRA', ('SaRA', 'hook:SaRAHook'), ''),
        ('LIFT', ('LIFT',), ''),
        ('SPT', ('SPT',), ''),
        ('GPS', ('GPS',), ''),
        ('S²FT', ('S2FT',), ''),
        ('Composable sparse fine-tuning', ('LotteryTicket',), ''),
        ('SHiRA', ('peft:SHIRA',), 'random entries; linear layers alone'),
    ],
    'Inside and beside blocks': [
        ('Houlsby', ('Houlsby',), ''),
        ('Pfeiffer', ('Pfeiffer',), ''),
        ('AdaptFormer', ('AdaptFormer',), ''),
        ('VPT, shallow and deep', ('VPT',), ''),
        ('Last-layer tuning', ('config:last-layer',), ''),
        ('MoSA', ('MoSA',), ''),
        (
            'NOAH',
            ('hook:SampledRankHook', 'tool:search_adapters.py'),
            'a supernet of VPT, DyLoRA and Pfeiffer, config `internvit/noah`, '
            'and a search, which is for any nested ranks',
        ),
        ('Mona', ('Mona',), ''),
        ('LoRand', ('LoRand',), ''),
        ('RepAdapter', ('RepAdapter',), ''),
        ('Conv-Adapter', ('ConvAdapter',), ''),
        ('E³VA', ('E3VA',), 'after its abstract and overview'),
        ('Ladder side tuning', ('Ladder',), ''),
        ('Rein', ('Rein',), ''),
        ('SCT', ('SCT',), 'needs a calibration; cannot be merged'),
        (
            'V-PETL Bench',
            (),
            'a benchmark, no method; [study.md](study.md) compares',
        ),
    ],
    'Terms of the loss': [
        ('PEGO, OrthoReg', (), _TERM),
        ('λ-orthogonality', (), _TERM),
        ('Orthogonal Adaptation, Comp-LoRA', (), _TERM),
        ('DR-Tune', (), _TERM),
        ('Orthogonal convolutions', (), _TERM),
        ('OFT and BOFT', ('peft:OFT', 'peft:BOFT'), 'rotated weights'),
    ],
    'Steps': [
        ('LoRA-Pro', (), _STEP),
        ('DCT-based low-rank optimizers', (), _STEP),
        ('ROOT, ARO', (), _STEP),
    ],
    'Several adapters, and tasks one after another': [
        (
            'Task arithmetic',
            ('tool:adapters.py',),
            'weighted sums of adapters, as adapters',
        ),
        (
            'TIES, DO-Merging, OrthoMerge, Concrete subspaces',
            (),
            'adapters are summed by weights alone',
        ),
        ('CapVector', ('tool:adapters.py',), 'differences are weighted sums'),
        ('Sculpting Subspaces', ('peft:OSF',), 'linear layers alone'),
        (
            'O-LoRA, CoSO, iGSP',
            (),
            'each task has an adapter of its own',
        ),
    ],
    'Beside the backbone': [
        (
            'Intruder dimensions',
            ('hook:UpdateStatisticsHook', 'tool:adapters.py'),
            'spectra of W + ΔW against W',
        ),
        ('Grassmann class representation', (), 'a head, no adapter'),
        ('SubspaceAD', (), 'anomaly maps, without training'),
        ('GIST', (), 'a choice of training images'),
        ('LeMON, dictionary learning', (), _FAR),
        ('Deep subspace clustering', (), _FAR),
        ('Text-to-image hypernetworks', (), _FAR),
    ],
}
