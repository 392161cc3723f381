"""Measurements as lines of JSON, and the page that is written from them."""

import json
from datetime import datetime, timezone


class Results:
    """The lines of a run; those of other parts are kept.

    Args:
        folder: Where ``NAME.jsonl`` and ``NAME.md`` are.
        name: The name.
        page: Makes the page of all lines.
        device: ``'cpu'`` or ``'cuda'``.
    """

    def __init__(self, folder, name, page, device='cpu'):
        from benchmarks.gpu import machine

        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.page = folder / f'{name}.jsonl', folder / f'{name}.md'
        self.write_page = page
        self.about = machine(device)
        self.about['date'] = datetime.now(timezone.utc).date().isoformat()
        lines = (
            self.file.read_text().splitlines() if self.file.exists() else ()
        )
        self.lines = [json.loads(line) for line in lines]

    def add(self, part, case, side, **measured):
        """Take a measurement in the place of an older one, and write."""
        from mmflora.files.atomic import write_text

        line = dict(part=part, case=case, side=side, **measured, **self.about)
        place = (part, case, side)
        self.lines = [
            line
            for line in self.lines
            if (line['part'], line['case'], line['side']) != place
        ]
        self.lines.append(line)
        text = ''.join(json.dumps(line) + '\n' for line in self.lines)
        write_text(self.file, text)
        write_text(self.page, self.write_page(self.lines))
        print(f'{part}, {case}, {side}: measured', flush=True)


def measured_on(lines):
    """Return where and with what lines were measured, each sentence once."""
    return dict.fromkeys(
        f'{line["device"]}, Python {line["python"]}, '
        + ', '.join(f'{k} {v}' for k, v in line['versions'].items())
        + f'; {line["date"]}.'
        for line in lines
    )
