"""docs/adapters-as-files.md does what it says.

Default: MMSegmentation.  Slow: all three toolkits.
"""

import pytest
import walk_through
from walk_through import NAMES, PAGE, command_lines, read_page, walk

TOOLS = ('export', 'import', 'extract', 'diff', 'show', 'predict')


@pytest.mark.slow
@pytest.mark.parametrize(
    'toolkits', [['mmseg'], list(NAMES)], ids=['mmseg', 'all']
)
def test_the_page_runs(tmp_path, toolkits):
    printed, differences = walk(tmp_path, toolkits)
    assert differences.keys() == set(toolkits)
    for toolkit, off in differences.items():
        # Positions in pixels, logits and scores: some 1e-6 of their size.
        assert off < 1e-3, (toolkit, off)
    commands = [line for line in printed.splitlines() if line.startswith('$ ')]
    expected = [
        line
        for block in read_page()
        if block.language == 'bash' and block.toolkits <= set(toolkits)
        for line in command_lines(block.text)
    ]
    assert [line.removeprefix('$ ') for line in commands] == expected
    assert 'largest difference of' in printed  # of merged models
    for name in ('spectrum.png', 'difference.png'):
        assert (tmp_path / name).stat().st_size > 5000


def test_the_page_covers_every_step():
    blocks = read_page()
    text = PAGE.read_text(encoding='utf-8')
    fences = [
        x for x in text.splitlines() if x.startswith('```') and 'walk' in x
    ]
    assert len(blocks) == len(fences) > 10
    bash = ' '.join(b.text for b in blocks if b.language == 'bash')
    for tool in TOOLS:
        assert f'tools/adapters.py {tool} ' in bash, tool
    for tool in ('train', 'test', 'merge'):
        assert f'tools/{tool}.py ' in bash, tool
    for toolkit in NAMES:
        of_toolkit = [b for b in blocks if b.toolkits == {toolkit}]
        assert any(b.stock for b in of_toolkit), toolkit
        assert any('merge.py' in b.text for b in of_toolkit), toolkit
        assert any('elsewhere' in b.text for b in of_toolkit), toolkit


def test_a_command_that_fails_is_told(tmp_path, monkeypatch):
    page = tmp_path / 'page.md'
    page.write_text('```bash walk\npython tools/adapters.py show\n```\n')
    pages = walk_through.read_page(page)
    monkeypatch.setattr(walk_through, 'read_page', lambda: pages)
    with pytest.raises(RuntimeError, match='arguments are required: adapter'):
        walk(tmp_path / 'work', [])
