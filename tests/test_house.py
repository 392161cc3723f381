"""The house rules of docs/design.md, as far as a machine can check them."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'mmflora'
FILES = sorted(
    path for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts
)
# From the ground up; rooms of one floor do not know each other.
FLOORS = (
    ('registry', 'version', 'collector'),
    ('files',),
    ('adapters',),
    ('checkpoint',),
    ('models',),
    ('engine',),
    ('config',),
    ('adapter_files', 'count', 'evaluation'),
    (
        *('export', 'extract', 'tasks', 'memory_estimate'),
        *('study', 'search', 'new_config'),
    ),
    ('side_effects',),
    ('mmflora',),
)
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
LONGEST_FILE = 300
LONGEST_FUNCTION = 60


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {name_of(path): path for path in FILES}


def room_of(module):
    parts = module.split('.')
    return parts[1] if len(parts) > 1 else parts[0]


def imports_of(path):
    """Yield the modules of the package that a file imports."""
    package = name_of(path)
    if path.name != '__init__.py':
        package = package.rpartition('.')[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                above = package.split('.')[: -node.level + 1 or None]
                base = '.'.join([*above, base] if base else above)
            for item in node.names:
                whole = f'{base}.{item.name}'
                yield whole if whole in MODULES else base
        elif isinstance(node, ast.Import):
            yield from (item.name for item in node.names)


def test_a_room_knows_only_rooms_below_it():
    wrong = []
    for name, path in MODULES.items():
        own = room_of(name)
        assert own in FLOOR, f'docs/design.md and FLOORS know no room {own!r}'
        for module in imports_of(path):
            if module.split('.')[0] == 'mmflora':
                other = room_of(module)
                if other != own and FLOOR[other] >= FLOOR[own]:
                    wrong.append(f'{name} imports {module}')
    assert wrong == []


def test_no_circles():
    known = {
        name: {other for other in imports_of(path) if other in MODULES}
        for name, path in MODULES.items()
    }
    # What no other waits for goes, until nothing is left but circles.
    while True:
        free = {
            name
            for name, others in known.items()
            if not (others - {name}) & known.keys()
        }
        if not free:
            break
        known = {name: known[name] for name in known.keys() - free}
    assert not known


def test_no_file_name_twice():
    names = Counter(path.name for path in FILES)
    del names['__init__.py']
    assert [name for name, count in names.items() if count > 1] == []


def test_nothing_is_too_long():
    wrong = []
    for name, path in MODULES.items():
        text = path.read_text()
        # A merged model gets a copy of such a file, so it has to be one.
        longest = 400 if 'plain' in path.parts else LONGEST_FILE
        if len(text.splitlines()) > longest:
            wrong.append(f'{name}: {len(text.splitlines())} lines')
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                documented = ast.get_docstring(node) is not None
                start = node.body[0].end_lineno if documented else node.lineno
                if node.end_lineno - start > LONGEST_FUNCTION:
                    wrong.append(f'{name}: {node.name}')
    assert wrong == []


def test_figures_are_written_in_one_place():
    """In full or not at all; `result_plots.py` draws into memory."""
    found = {
        path.name
        for path in (*FILES, *(ROOT / 'tools').glob('*.py'))
        if '.savefig(' in path.read_text()
    }
    assert found == {'atomic.py', 'result_plots.py'}
