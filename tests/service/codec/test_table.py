from __future__ import annotations

import csv
import io
import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.codec import table
from service.codec.table import Table
from service.errors import InvalidRequest, PayloadTooLarge, ServiceError, Unprocessable, UnsupportedMediaType
from tests import micro
from training.data import tables
from training.data.source import Source
from training.data.tabular import load_table

TABLE = Table("features", micro.COLUMNS.columns)  # age, town (Bergen, Oslo, "Å, Lofoten"), pay
CSV = "text/csv"


def rows(*instances):
    return TABLE.rows([msgspec.Raw(json.dumps(instance).encode()) for instance in instances])


def read(text, content_type=CSV, max_rows=100):
    found, _ = TABLE.read(text if isinstance(text, bytes) else text.encode(), content_type, max_rows)
    return np.array(found)


def same(found, expected):
    np.testing.assert_array_equal(np.array(found), np.array(expected, np.float32))


def test_an_instance_is_an_object_by_column_name_with_what_is_missing_left_out_or_null():
    same(
        rows({"town": "Oslo", "age": 31}, {"pay": None, "town": " Å, Lofoten "}, {"town": "Rome", "pay": 1.5}),
        [[31, 1, np.nan], [np.nan, 2, np.nan], [np.nan, np.nan, 1.5]],
    )


def test_an_instance_is_a_list_of_names_numbers_and_null_in_the_columns_order():
    same(rows([31, "Oslo", None], [31, 1, None]), [[31, 1, np.nan], [31, 1, np.nan]])


def test_lists_of_nothing_but_numbers_and_rows_by_the_inputs_name_are_left_to_the_decoder_of_numbers():
    assert rows([31, 1, 5], {"features": [31, 1, 5]}, [31, 1]) == [None, None, None]


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ({"age": "31"}, "instance 0: column 'age' takes a number a float32 can hold, or null where it is missing, not '31'"),
        ({"age": True}, "column 'age' takes a number"),
        ({"age": [31]}, "column 'age' takes a number"),
        ({"age": 1e39}, "column 'age' takes a number a float32 can hold"),
        ({"age": 10**400}, "column 'age' takes a number|instance 0: "),
        ({"aeg": 31}, r"unknown column 'aeg' \(did you mean 'age'\?\); the columns are age, town, pay"),
        ({"Oslo": 31}, "unknown column 'Oslo'; the columns are age, town, pay"),
        ({"town": 1}, "column 'town' takes the name of a category as a string, not 1"),
        ({"town": ["Oslo"]}, "column 'town' takes the name of a category or null"),
        ({}, "instance 0 is empty"),
        ([31, "Oslo"], "instance 0 has 2 values; the table has 3 columns"),
        (["Oslo", 31, None], "column 'age' takes a number"),
    ],
)
def test_an_instance_that_is_no_row_names_the_column(instance, message):
    with pytest.raises(InvalidRequest, match=message):
        rows(instance)


@pytest.mark.parametrize("code", [3, -1, 0.5])
def test_a_number_that_is_no_index_of_a_category_is_refused_not_taken_as_unknown(code):
    with pytest.raises(Unprocessable, match=f"instance 1: column 'town' is {code}.* 3 categories, 0 to 2: send the name"):
        TABLE.check(np.array([[1, 2, 3], [1, code, 3]], np.float32))
    TABLE.check(np.array([[1, np.nan, 3]], np.float32))


def test_csv_names_its_columns_in_any_order():
    same(read("town,age\nOslo,31\nBergen,\n,4e1\n"), [[31, 1, np.nan], [np.nan, 0, np.nan], [40, np.nan, np.nan]])


def test_csv_without_a_header_has_the_models_columns():
    same(read("31,Oslo,5\nNA,Rome,?\n"), [[31, 1, 5], [np.nan] * 3])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeffage,town,pay\n31,Oslo,5\n", id="byte order mark"),
        pytest.param("age,town,pay\r\n31,Oslo,5\r\n\r\n", id="CRLF and an empty line at the end"),
        pytest.param("age,town,pay\r31,Oslo,5", id="CR, and no line end at the end"),
        pytest.param(' age , town ,pay\n"31","Oslo", 5 \n', id="quotes and spaces"),
        pytest.param("age;town;pay\n31;Oslo;5\n", id="semicolons"),
    ],
)
def test_csv_comes_in_many_dialects(text):
    same(read(text), [[31, 1, 5]])


def test_a_quoted_field_holds_commas():
    same(read('town\n"Å, Lofoten"\n'), [[np.nan, 2, np.nan]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the body is empty"),
        ("\n\n", "the body is empty"),
        ("age,town\n", "no row below the line of column names"),
        ("age,pays\n1,2\n", r"line 1: unknown column 'pays' \(did you mean 'pay'\?\); the columns are age, town, pay"),
        ("Age,Town,Pay\n1,Oslo,2\n", "line 1 is neither a row of values nor one of column names: unknown column 'Age'"),
        ("1,2\n", "line 1: unknown column '1'; the columns are age, town, pay"),
        ("age,age\n1,2\n", "line 1 names column 'age' twice"),
        ("age,town\n1\n", "line 2 has 1 fields, line 1 has 2"),
        ("age,town\n1,Oslo\n\n2,Oslo\n", "line 3 is empty; remove it"),
        ('age,town\n1,"Os\nlo"\ntwo,Oslo\n', "line 4: column 'age' takes a number a float32 can hold, not 'two'"),
        ('age,town\n1,"Oslo\n', "line 2: unexpected end of data"),
        ("age\n1e99\n", "line 2: column 'age' takes a number"),
        ("age\n1_000\n", "line 2: column 'age' takes a number"),
        ("age\n٣\n", "line 2: column 'age' takes a number"),
        ("age\ninf\n", "line 2: column 'age' takes a number"),
        (b"age\n1\n\xff\n", "line 3: the byte 0xff is not UTF-8"),
    ],
)
def test_csv_that_cannot_be_read_names_the_line(text, message):
    with pytest.raises(InvalidRequest, match=message):
        read(text)


def test_csv_in_another_encoding_or_of_too_many_rows_is_refused():
    with pytest.raises(UnsupportedMediaType, match="charset 'latin-1' is not decoded here: send UTF-8"):
        read("age\n1\n", 'text/csv; charset="latin-1"')
    assert len(read("age\n1\n2\n", max_rows=2)) == 2
    with pytest.raises(PayloadTooLarge, match="more than 2 rows"):
        read("age\n1\n2\n3\n", max_rows=2)
    with pytest.raises(PayloadTooLarge, match="the request has 3 rows; at most 2"):
        read("1,Oslo,2\n" * 3, max_rows=2)


values = st.tuples(
    st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-1000, 1000),
    st.none() | st.sampled_from(micro.COLUMNS.columns[1].categories) | st.text(st.characters(exclude_categories=["C"]), min_size=1),
    st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(values, min_size=1, max_size=5), st.permutations(range(3)))
def test_a_table_says_the_same_as_objects_as_lists_and_as_csv(table_rows, order):
    names = [column.name for column in micro.COLUMNS.columns]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([names[i] for i in order])
    writer.writerows([["" if row[i] is None else repr(row[i]) if i != 1 else row[i] for i in order] for row in table_rows])
    objects = rows(*(dict(zip(names, row, strict=True)) for row in table_rows))
    same(read(text.getvalue()), objects)
    for found, row, row_object in zip(rows(*table_rows), table_rows, objects, strict=True):
        if found is not None:  # else all numbers
            same(found, row_object)
        else:
            assert not any(isinstance(value, str | None) for value in row)


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text('age,town\n\r";Oslo123. ', max_size=40).map(str.encode))
def test_garbage_never_raises_anything_but_a_service_error(body):
    for attempt in (lambda: TABLE.read(body, CSV, 5), lambda: TABLE.rows([msgspec.Raw(body)])):
        try:
            attempt()
        except ServiceError as error:
            assert error.status < 500  # noqa: PT017


def test_the_service_reads_a_csv_file_as_training_does(tmp_path):
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("age,town,pay,y\n" + "".join(f"{n},{('Oslo', 'Bergen')[n % 2]},{n / 7},{'ab'[n % 2]}\n" for n in range(40)))
    lines = ["3,Oslo,0.1", "NA,Rome,1e-7", " 7 ,Bergen ,?", '"8","Oslo",null', "9,,123456789.123"]
    test.write_text("age,town,pay,y\n" + "".join(f"{line},a\n" for line in lines))
    data = load_table(train, Source(target=("y",), test_data=test))
    found, _ = Table("features", data.kind.columns).read("\n".join(["age,town,pay", *lines]).encode(), CSV, 100)
    np.testing.assert_array_equal(np.array(found), data.test.inputs["features"])
    assert table.MISSING == tables.MISSING


def test_an_example_is_read_as_the_row_it_was_made_of():
    row = np.array([31, 1, np.nan], np.float32)
    assert TABLE.instance(row) == {"age": 31, "town": "Oslo", "pay": None}
    same(rows(TABLE.instance(row)), [row])
    assert TABLE.body(CSV, row) == "age,town,pay\n31.0,Oslo,\n"
    same(read(TABLE.body(CSV, row)), [row])
