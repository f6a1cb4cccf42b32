"""CSV: a quote that swallows rows is found, cells of several lines are legal, headers and delimiters are named."""

import csv
import logging
from pathlib import Path

import pytest

from tests.data.test_readers import read, reasons, texts
from trainer.base.errors import DataError


def write(file: Path, rows: list[str], header: str = "text,n", end: str = "\n") -> None:
    file.write_text("".join(f"{row}{end}" for row in [header, *rows]), encoding="utf-8", newline="")


def plain(num: int) -> list[str]:
    return [f"row {number},{number}" for number in range(1, num + 1)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("num", "broken"), [(2000, 1500), (120, 20), (10, 1), (10, 10)])
def test_a_quote_that_is_never_closed_costs_its_own_row(tmp_path: Path, num: int, broken: int, end: str) -> None:
    rows = plain(num)
    rows[broken - 1] = f'"{rows[broken - 1]}'
    write(tmp_path / "a.csv", rows, end=end)
    outcome = read(tmp_path, path="a.csv")
    assert len(outcome) == num
    assert reasons(outcome) == [(broken + 1, "bad CSV: a quote that opens here is never closed")]
    assert texts(outcome) == [f"row {number}" for number in range(1, num + 1) if number != broken]


def test_a_quote_that_is_closed_by_the_quote_of_a_later_row_costs_its_own_row(tmp_path: Path) -> None:
    rows = plain(300)
    rows[99], rows[199] = f'"{rows[99]}', '"a, b",200'
    write(tmp_path / "a.csv", rows)
    outcome = read(tmp_path, path="a.csv")
    assert [line for line, _ in reasons(outcome)] == [101]
    assert texts(outcome)[98:100] == ["row 99", "row 101"]
    assert "a, b" in texts(outcome)


@pytest.mark.parametrize(("first", "last"), [(500, 1500), (7, 11), (20, 120)])
def test_a_quote_that_is_closed_some_rows_later_is_refused_with_its_line(tmp_path: Path, first: int, last: int) -> None:
    rows = plain(1600)
    rows[first - 1] = f'"{rows[first - 1]}'
    rows[last - 1] = f'row {last}",{last}'
    write(tmp_path / "a.csv", rows)
    with pytest.raises(DataError, match=rf"a\.csv:{first + 1}: .*takes in other rows.*{last - first} more lines"):
        read(tmp_path, path="a.csv")
    assert len(texts(read(tmp_path, path="a.csv", quoting=False))) == 1600


def test_a_quote_closed_much_later_is_found_without_a_column_of_numbers(tmp_path: Path) -> None:
    rows = [f"title {number},text {number}" for number in range(1, 101)]
    rows[29], rows[89] = 'title 30,"text 30', 'title 90,text 90"'
    write(tmp_path / "a.csv", rows, header="title,text")
    with pytest.raises(DataError, match=r"a\.csv:31: .*60 more lines.*`quoting: trusted`"):
        read(tmp_path, path="a.csv")
    assert len(texts(read(tmp_path, path="a.csv", max_row_bytes=5000, quoting="trusted"))) == 40


@pytest.mark.parametrize("last", [8, 9, 10])
def test_a_quote_closed_very_few_rows_later_is_told_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, last: int
) -> None:
    rows = plain(30)
    rows[6], rows[last - 1] = '"row 7,7', f'row {last}",{last}'
    write(tmp_path / "a.csv", rows)
    with caplog.at_level(logging.WARNING):
        assert len(texts(read(tmp_path, path="a.csv"))) == 30 - (last - 7)
    assert "a.csv:8: the lines of a quoted cell look like rows of their own (1 such cells)" in caplog.text
    caplog.clear()
    read(tmp_path, path="a.csv", quoting="trusted")
    assert not caplog.text


POEM = "\n".join(f"line {number}, of twelve" for number in range(12))
LEGAL = {
    "a sum inside": ("text,score", plain(8), "The yield was\nin spring, 5\nand nothing else", '"{}",8', False),
    "a list": ("id,text", [f"{number},row" for number in range(1, 8)], "first\n1, apples\nlast", '8,"{}"', False),
    "few numbers": ("text,score", plain(8), "a, 1\nno\nb, 2\nno\nc, 3\nno\nd, 4\nend", '"{}",8', False),
    "a poem": ("title,text", [f"title {number},row" for number in range(8)], POEM, 'a,"{}"', True),
    "a long poem": ("text,by", ["row,me"] * 8, "\n".join([POEM] * 4), '"{}",me', True),
    "an essay": ("title,text", ["a,row"] * 8, "\n".join([POEM, *["No comma here"] * 20] * 9), 'b,"{}"', True),
}


@pytest.mark.parametrize(("header", "rows", "cell", "row", "warns"), LEGAL.values(), ids=list(LEGAL))
def test_a_legal_cell_of_which_some_lines_look_like_rows_is_read(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    header: str,
    rows: list[str],
    cell: str,
    row: str,
    warns: bool,
) -> None:
    write(tmp_path / "a.csv", [*rows, row.format(cell), rows[0]], header=header)
    with caplog.at_level(logging.WARNING):
        assert texts(read(tmp_path, max_row_bytes=9000, path="a.csv"))[-2] == cell
    assert ("`quoting: trusted`" in caplog.text) == warns


def test_a_cell_that_is_rows_by_the_look_of_it_is_read_where_quotes_are_trusted(tmp_path: Path) -> None:
    cell = "\n".join(f"row {number}, {number}" for number in range(50))
    write(tmp_path / "a.csv", [*plain(9), f'"{cell}",10'])
    with pytest.raises(DataError, match=r"takes in other rows.*write `quoting: trusted`"):
        read(tmp_path, path="a.csv")
    assert texts(read(tmp_path, path="a.csv", quoting="trusted"))[-1] == cell


def test_a_file_of_one_column_warns_of_a_cell_far_longer_than_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [f"row {number}" for number in range(1, 301)]
    rows[99], rows[249] = f'"{rows[99]}', f'{rows[249]}"'
    write(tmp_path / "a.csv", rows, header="text")
    with caplog.at_level(logging.WARNING):
        assert len(read(tmp_path, path="a.csv")) == 150
    assert "a.csv:101: a quoted cell of 151 lines, no other has more than 1" in caplog.text


def test_a_record_of_several_lines_with_other_cells_than_the_header_costs_one_line(tmp_path: Path) -> None:
    rows = plain(40)
    rows[9], rows[19] = f'"{rows[9]}', 'row 20"'
    write(tmp_path / "a.csv", rows)
    outcome = read(tmp_path, path="a.csv")
    assert [line for line, _ in reasons(outcome)] == [11, 21]
    assert len(texts(outcome)) == 38


def test_legal_cells_of_several_lines_and_doubled_quotes_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    poem = "\n".join(f"Line {number}, of a poem" for number in range(50))
    cells = ['He said "hi", twice\nand left', poem, '"', "a\r\nb", "", "one, two\n\nthree", '""\n,"']
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["n", "text"], *([number, cell] for number, cell in enumerate(cells))])
    outcome = read(tmp_path, max_row_bytes=5000, path="a.csv")
    assert texts(outcome) == cells
    assert [row.line for row in outcome[:3]] == [2, 4, 54]
    assert not caplog.text


@pytest.mark.parametrize("end", [60, 64])
def test_a_csv_file_that_is_cut_off_inside_a_quote_is_refused(tmp_path: Path, end: int) -> None:
    write(
        tmp_path / "a.csv", ["aaaaaaaaaa,bbbbbbbbbb,1", '"cccc, ccc",dddddddddd,2', '"ee\nee",f,3'], header="text,m,n"
    )
    content = (tmp_path / "a.csv").read_text()
    assert len(texts(read(tmp_path, path="a.csv"))) == 3
    (tmp_path / "a.csv").write_text(content[:end])
    with pytest.raises(DataError, match="never closed"):
        read(tmp_path, path="a.csv")


@pytest.mark.parametrize(
    ("content", "num_rows", "line"),
    [("text,note\nhello,a\nhow are you", 1, 3), ("text,m,n\na", 0, 2), ('text,m,n\na,b,1\n"a, b",c', 1, 3)],
)
def test_a_short_last_row_without_a_line_end_costs_itself(
    tmp_path: Path, content: str, num_rows: int, line: int
) -> None:
    (tmp_path / "a.csv").write_text(content)
    outcome = read(tmp_path, path="a.csv")
    assert len(texts(outcome)) == num_rows
    [(where, reason)] = reasons(outcome)
    assert where == line
    assert "number of cells" in reason
    assert "is it whole?" in reason


def test_a_line_without_end_and_a_cell_over_the_limit_cost_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.data.readers.rows._MIN_LINE_BYTES", 4000)
    write(tmp_path / "a.csv", ["good,1", "x" * 50_000 + ",2", "y" * 1500 + ",3", "good,4"])
    outcome = read(tmp_path, path="a.csv")
    assert reasons(outcome) == [(3, "row over 1000 bytes"), (4, "row over 1000 bytes")]
    write(tmp_path / "b.csv", ["good,1", '"open,2', *plain(2000)])
    with pytest.raises(DataError, match=r"b\.csv:3: a quote that opens on this line is not closed"):
        read(tmp_path, path="b.csv")


@pytest.mark.parametrize(
    ("name", "header", "remedy"),
    [
        ("a.csv", "text;n", "`delimiter: ';'`"),
        ("a.csv", "n\ttext", '`delimiter: "\\\\t"`'),
        ("a.csv", '"n"|"text"', r"`delimiter: '\|'`"),
        ("a.tsv", "text,n", "`delimiter: ','`"),
        ("a.csv", " text , n", r"columns are \[' n', ' text '\]"),
        ("a.csv", "body,n", r"columns are \['body', 'n'\]"),
        ("a.csv", "text,text", "two columns have one name"),
    ],
)
def test_a_header_without_the_text_column_names_what_it_has(
    tmp_path: Path, name: str, header: str, remedy: str
) -> None:
    write(tmp_path / name, ["a,1", "b,2"], header=header)
    with pytest.raises(DataError, match=remedy):
        read(tmp_path, path=name)


def test_other_delimiters_are_read(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", ["a, b;1", '"c;d";2'], header="text;n")
    assert texts(read(tmp_path, path="a.csv", delimiter=";")) == ["a, b", "c;d"]
    write(tmp_path / "a.tsv", ["a, b\t1", 'say "x" to\t2', '"open\t3', "d\t4"], header="text\tn")
    assert texts(read(tmp_path, path="a.tsv", quoting=False)) == ["a, b", 'say "x" to', '"open', "d"]
    assert texts(read(tmp_path, path="a.tsv")) == ["a, b", 'say "x" to', "d"]
