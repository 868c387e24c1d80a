from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from training.data import tables
from training.data.dataset import DataError


def read(tmp_path, text: str | bytes, name: str = "t.csv", header: bool = True) -> pl.DataFrame:
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return tables.read_table(tmp_path / name, header)


def numbers(tmp_path, text: str, column: str = "a", name: str = "t.csv", header: bool = True) -> list[float]:
    return tables.numbers(read(tmp_path, text, name, header), column, tmp_path / name).tolist()


def test_fields_of_a_csv_file_stay_text_and_empty_ones_are_null(tmp_path):
    frame = read(tmp_path, 'a,b\n007,"x, y"\n,\n 1.50 ,"say ""hi"""\n')
    assert frame.rows() == [("007", "x, y"), (None, None), (" 1.50 ", 'say "hi"')]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("t.csv", "a,b\n1,2\n", id="comma"),
        pytest.param("t.csv", "a;b\n1;2\n", id="semicolon"),
        pytest.param("t.csv", "\ufeffa,b\r\n1,2\r\n", id="bom-and-crlf"),
        pytest.param("t.csv", "a,b\n1,2\n\n\n", id="empty-lines-at-the-end"),
        pytest.param("t.csv", " a , b \n1,2", id="spaces-and-no-newline"),
        pytest.param("t.tsv", "a\tb\n1\t2\n", id="tab"),
    ],
)
def test_the_dialects_of_separated_files_read_alike(tmp_path, name, text):
    frame = read(tmp_path, text, name)
    assert frame.columns == ["a", "b"]
    assert frame.rows() == [("1", "2")]


def test_a_quote_in_a_tsv_file_is_a_character(tmp_path):
    assert read(tmp_path, 'a\tb\n"so it\t1\nsaid "he"\t2\n', "t.tsv").rows() == [('"so it', "1"), ('said "he"', "2")]


def test_without_a_header_columns_are_called_by_number(tmp_path):
    assert read(tmp_path, "5,x\n6,y\n", header=False).to_dict(as_series=False) == {"1": ["5", "6"], "2": ["x", "y"]}


def test_a_column_without_a_name_is_called_by_its_number(tmp_path):
    assert read(tmp_path, ",a\n0,5\n").columns == ["1", "a"]


def test_parquet_and_json_lines_keep_their_types(tmp_path):
    pl.DataFrame({"a": [1, None], "b": [True, False]}).write_parquet(tmp_path / "t.parquet")
    assert tables.read_table(tmp_path / "t.parquet", True).dtypes == [pl.Int64, pl.Boolean]
    frame = read(tmp_path, '{"a": 1, "b": "x"}\n\n{"b": "y", "a": 2.5}\n{"a": null}\n', "t.jsonl")
    assert frame.rows() == [(1.0, "x"), (2.5, "y"), (None, None)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("t.csv", "", r"t.csv: the first line is empty; it must name the columns", id="empty"),
        pytest.param("t.csv", "a,b\n", r"t.csv: has no rows", id="no-rows"),
        pytest.param("t.csv", "a,b,a\n1,2,3\n", r"t.csv: line 1 names column 'a' twice", id="twice"),
        pytest.param("t.csv", "a,b\n1,2\n1,2,3\n", r"t.csv: line 3 has 3 fields where line 1 has 2", id="long-line"),
        pytest.param("t.csv", 'a,b\n"1\n2",3\n4\n', r"t.csv: line 4 has 1 fields where line 1 has 2", id="short-line"),
        pytest.param("t.csv", b"a,b\n1,2\n1,\xe9\n", r"t.csv: is not UTF-8 text \(line 3 holds byte 0xe9\)", id="latin-1"),
        pytest.param("t.jsonl", '{"a": 1}\n\n{"a": }\n', r"t.jsonl: line 3: Expecting value at character 7", id="json"),
        pytest.param("t.jsonl", "[1, 2]\n", r"t.jsonl: line 1: a row is an object .* not \[1, 2\]", id="json-array"),
        pytest.param("t.jsonl", "\n", r"t.jsonl: has no rows", id="json-empty"),
        pytest.param("t.parquet", "no", r"t.parquet: cannot be read as Parquet", id="parquet"),
        pytest.param("t.xlsx", "no", r"t.xlsx: a table ends in .csv, .tsv, .parquet, .jsonl", id="suffix"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_the_place(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, text, name)


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(DataError, match="is a folder, not a file"):
        tables.read_table(tmp_path, True)
    with pytest.raises(DataError, match="none.csv: no such file"):
        tables.read_table(tmp_path / "none.csv", True)


def test_numbers_are_read_with_spaces_signs_and_exponents_and_nan_where_missing(tmp_path):
    found = numbers(tmp_path, "a,b\n 1 ,x\n-2.5e3,x\n+.5,x\n,x\nNA,x\nnan,x\n?,x\nNULL,x\n")
    np.testing.assert_array_equal(found, [1, -2500, 0.5] + [np.nan] * 5)


@pytest.mark.parametrize("value", ["abc", "1,5", "inf", "-Infinity", "1e39", "1_000", "0x10", "true"])
def test_what_is_no_number_is_named_with_line_and_column(tmp_path, value):
    with pytest.raises(DataError, match=rf"t.csv: line 5, column 'a': '{value}' is no number"):
        numbers(tmp_path, f'b,a\n"two\nlines",1\nx,2\nx,"{value}"\n')


def test_lines_are_counted_without_a_header_and_past_empty_json_lines(tmp_path):
    with pytest.raises(DataError, match="line 2, column '1': 'x' is no number"):
        numbers(tmp_path, "1,2\nx,2\n", "1", header=False)
    with pytest.raises(DataError, match="t.jsonl: line 3, column 'a': 'x' is no number"):
        numbers(tmp_path, '{"a": "1"}\n\n{"a": "x"}\n', name="t.jsonl")


def test_a_bad_value_in_parquet_has_a_row_in_place_of_a_line(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": [1.0, float("inf")]}).write_parquet(path)
    with pytest.raises(DataError, match="t.parquet: row 2, column 'a': 'inf' is no number"):
        tables.numbers(tables.read_table(path, True), "a", path)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(pl.Series([1, None, 3], dtype=pl.Int8), id="int8"),
        pytest.param(pl.Series([1.0, float("nan"), 3.0], dtype=pl.Float32), id="float32-with-nan"),
        pytest.param(pl.Series(["1", "NA", "3"]), id="text"),
    ],
)
def test_typed_columns_become_numbers(tmp_path, values):
    found = tables.numbers(pl.DataFrame({"a": values}), "a", tmp_path / "t.parquet")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [1, np.nan, 3])


def test_booleans_are_0_and_1(tmp_path):
    found = tables.numbers(pl.DataFrame({"a": [True, False, None]}), "a", tmp_path / "t.parquet")
    np.testing.assert_array_equal(found, [1, 0, np.nan])


def test_dates_and_lists_are_refused_with_a_way_out(tmp_path):
    frame = pl.DataFrame({"day": pl.Series(["2020-01-01"]).str.to_date(), "list": [[1, 2]]})
    for column, what in (("day", "Date"), ("list", r"List\(Int64\)")):
        with pytest.raises(DataError, match=rf"column '{column}' holds {what}, not .* leave it out with --drop {column}"):
            tables.numbers(frame, column, tmp_path / "t.parquet")


def test_a_text_taken_for_a_column_name_is_cut_in_messages():
    assert tables.listed(["a" * 50, "b"]) == "a" * 39 + "…, b"
    assert tables.listed([str(n) for n in range(30)], most=2) == "0, 1, … (30 in all)"


def test_a_misspelt_column_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(DataError, match=r"no column 'pirce' \(did you mean 'price'\?\); there are price, size"):
        tables.require(pl.DataFrame({"price": [1], "size": [2]}), ["size", "pirce"], tmp_path / "t.csv")
