"""A report as one HTML page that opens from the disk."""

import base64
import html
from collections.abc import Mapping, Sequence

from .prediction_pictures import PictureRow
from .report_tables import Cell, Table

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  padding: 0 1rem; max-width: 1280px; color: #1c2330; background: #fff; }
h1, h2, h3 { line-height: 1.25; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #d5dae3; }
table { border-collapse: collapse; font-size: 13.5px; }
.scroll { overflow-x: auto; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e4e8ef;
  text-align: left; white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
th { background: #f2f4f8; position: sticky; top: 0; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid #2f6fed; }
th[aria-sort=ascending] button::after { content: ' ▲'; }
th[aria-sort=descending] button::after { content: ' ▼'; }
tbody tr:hover { background: #f7f9fc; }
td.best { font-weight: 700; }
img { max-width: 100%; height: auto; }
.row { display: flex; gap: .6rem; overflow-x: auto; padding-bottom: .5rem; }
figure { margin: 0; flex: 0 0 auto; width: 220px; }
figcaption { font-size: 12.5px; }
.note { color: #4a5568; max-width: 60rem; }
.warning { background: #fff4d6; border-left: 4px solid #e0a100;
  padding: .6rem 1rem; }
code { font-size: 12.5px; }
"""
SCRIPT = """
for (const table of document.querySelectorAll('table')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector('button')
    .addEventListener('click', () => {
      const falls = head.getAttribute('aria-sort') === 'ascending';
      heads.forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', falls ? 'descending' : 'ascending');
      const rows = [...table.tBodies[0].rows];
      const key = row => row.cells[column].dataset.key;
      const numeric = rows.every(row => !isNaN(Number(key(row))));
      rows.sort((a, b) => (numeric ? Number(key(a)) - Number(key(b))
        : key(a).localeCompare(key(b))) * (falls ? -1 : 1));
      table.tBodies[0].append(...rows);
    }));
}
"""


def page(
    title: str,
    lead: Sequence[str],
    warnings: Sequence[str],
    tables: Sequence[Table],
    plots: Mapping[str, bytes],
    pictures: Mapping[str, Sequence[PictureRow]],
) -> str:
    """Return the page.

    Args:
        title: Its title.
        lead: Paragraphs at the start.
        warnings: What a reader must know first, such as missing runs.
        tables: The tables.
        plots: SVG by title.
        pictures: Rows of pictures by task.
    """
    body = [f'<h1>{html.escape(title)}</h1>']
    body += [f'<p class="warning">{html.escape(w)}</p>' for w in warnings]
    body += [f'<p>{_inline(text)}</p>' for text in lead]
    for table in tables:
        body += [f'<h2>{html.escape(table.title)}</h2>', _table(table)]
        body.append(f'<p class="note">{_inline(table.note)}</p>')
    if plots:
        body.append('<h2>Plots</h2>')
    for name, data in plots.items():
        body.append(f'<h3>{html.escape(name)}</h3>')
        body.append(_image(data, 'image/svg+xml', name))
    for task, rows in pictures.items():
        if rows:
            body.append(f'<h2>Predictions: {html.escape(task)}</h2>')
        body += [_row(row) for row in rows]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f'<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n'
        '</head>\n<body>\n'
        + '\n'.join(body)
        + f'\n<script>{SCRIPT}</script>\n</body>\n</html>\n'
    )


def _inline(text: str) -> str:
    """Return text with *emphasis* and `code`."""
    parts = html.escape(text).split('`')
    for index, part in enumerate(parts):
        if index % 2:
            parts[index] = f'<code>{part}</code>'
            continue
        pieces = part.split('*')
        for inner in range(1, len(pieces) - 1, 2):
            pieces[inner] = f'<em>{pieces[inner]}</em>'
        parts[index] = ''.join(pieces)
    return ''.join(parts)


def _table(table: Table) -> str:
    heads = ''.join(
        f'<th scope="col"><button>{html.escape(name)}</button></th>'
        for name in table.header
    )
    rows = '\n'.join(
        '<tr>' + ''.join(map(_cell, row)) + '</tr>' for row in table.rows
    )
    return (
        f'<div class="scroll"><table id="{table.name}"><thead><tr>{heads}</tr>'
        f'</thead><tbody>\n{rows}\n</tbody></table></div>'
    )


def _cell(cell: Cell) -> str:
    names = ['number'] * isinstance(cell.value, (int, float))
    names += ['best'] * cell.best
    # As JavaScript reads it.
    key = str(cell.key).replace('inf', 'Infinity')
    kind = f' class="{" ".join(names)}"' if names else ''
    text = html.escape(cell.text)
    return f'<td{kind} data-key="{html.escape(key)}">{text}</td>'


def _image(data: bytes, kind: str, name: str) -> str:
    source = f'data:{kind};base64,{base64.b64encode(data).decode()}'
    return f'<img alt="{html.escape(name)}" src="{source}">'


def _row(row: PictureRow) -> str:
    name = row.image.image.replace('\\', '/').rpartition('/')[2]
    figures = []
    for title, data in row.pictures.items():
        score = row.image.scores.get(title)
        caption = html.escape(title)
        caption += '' if score is None else f': {100 * score:.1f}'
        figures.append(
            f'<figure>{_image(data, "image/jpeg", f"{name}, {title}")}'
            f'<figcaption>{caption}</figcaption></figure>'
        )
    return (
        f'<h3>{html.escape(name)} <small>({html.escape(row.why)})</small></h3>'
        f'<div class="row">{"".join(figures)}</div>'
    )
