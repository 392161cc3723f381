"""Logs of JSON lines: whole lines, whatever happens."""

import math
import multiprocessing

import pytest

from mmflora.files.json_lines import append_line, read_lines


def append_many(path, writer):
    for number in range(20):
        append_line(path, dict(writer=writer, number=number, text='x' * 5000))


def test_many_processes_append(tmp_path):
    path = tmp_path / 'runs.jsonl'
    context = multiprocessing.get_context('fork')
    writers = [
        context.Process(target=append_many, args=(path, writer))
        for writer in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = {(run['writer'], run['number']) for run in read_lines(path)}
    assert found == {(w, n) for w in range(3) for n in range(20)}


def test_an_unfinished_line_is_no_line(tmp_path):
    path = tmp_path / 'runs.jsonl'
    append_line(path, dict(key=1, loss=math.nan))
    with open(path, 'a') as file:
        file.write('{"key": 2, "met')
    assert read_lines(path) == [dict(key=1, loss=None)]
    append_line(path, dict(key=3))
    assert [run['key'] for run in read_lines(path)] == [1, 3]


@pytest.mark.parametrize('line', ['{"key":', '[]'])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / 'runs.jsonl'
    path.write_text(f'{line}\n{{"key": 1}}\n')
    with pytest.raises(ValueError, match=r"runs\.jsonl', line 1"):
        read_lines(path)
