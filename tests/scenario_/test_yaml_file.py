"""The strict reader: YAML 1.2 words, lines, and no surprises."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError
from sim.scenario.yaml_file import MAX_BYTES, read_file, read_text, read_value, scalar, write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000.0),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("12:30:00", "12:30:00"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("010", 10),
        ("0x10", 16),
        ("0o10", 8),
        ("true", True),
        ("~", None),
        ("", None),
        (".5", 0.5),
        ("4/s", "4/s"),
        ("-.inf", -math.inf),
    ],
)
def test_words_follow_yaml_1_2(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_every_value_knows_its_line():
    document = read_text("a: 1\nb:\n  c: [1,\n    x]\n  d: {e: 2}\n", "f.yaml")
    assert document.data == {"a": 1, "b": {"c": [1, "x"], "d": {"e": 2}}}
    lines = {path: mark.line for path, mark in document.marks.items()}
    assert lines[("a",)] == 1
    assert lines[("b", "c")] == 3
    assert lines[("b", "c", 1)] == 4
    assert lines[("b", "d", "e")] == 5
    assert document.problem(("b", "d", "missing"), "x").line == 5


def test_quoted_words_stay_words():
    assert read_text("a: '1'\nb: \"true\"\nc: |\n  3\n", "f").data == {"a": "1", "b": "true", "c": "3\n"}


def test_aliases_are_written_out():
    assert read_text("a: &x {b: 1}\nc: *x\n", "f").data == {"a": {"b": 1}, "c": {"b": 1}}


BOMB = "a: &a0 [1,1,1,1,1,1,1,1,1]\n" + "".join(f"b{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
LADDER = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 3000))

BROKEN = [
    ("a: 1\nb: 2\na: 3\n", 3, "given twice, first in line 1"),
    ("a:\n\tb: 1\n", 2, "a tab"),
    ("", None, "is empty"),
    ("# only a comment\n", None, "is empty"),
    ("[1, 2]", None, "holds a list"),
    ("word", None, "holds one value"),
    ("a: !!python/object:os.system x\n", 1, "tag"),
    ("a: !secret x\n", 1, "tag"),
    ("a: &a [*a]\n", 1, "not defined"),
    ("a: {b: 1}\n<<: {c: 1}\n", 2, "merge keys"),
    ("a: 1\n---\nb: 2\n", 2, "more than one document"),
    ("a: b: c\n", 1, "not valid YAML"),
    ("a: 'x\n", None, "not valid YAML"),
    ("a: [1, 2\n", None, "not valid YAML"),
    ("true: 1\n", 1, "cannot be a key"),
    ("1.5: 1\n", 1, "cannot be a key"),
    ("? [a]\n: 1\n", 1, "a key must be a word"),
    ("a: " + "[" * 200, 1, "nested deeper"),
    ("a: " + "{a: " * 200, 1, "nested deeper"),
    (BOMB, None, "aliases are written out"),
    (LADDER, None, "aliases are written out"),
]


@pytest.mark.parametrize(("text", "line", "message"), BROKEN)
def test_refuses(text, line, message):
    with pytest.raises(InputError) as caught:
        read_text(text, "f.yaml")
    problem = caught.value.problems[0]
    assert message in problem.message
    assert problem.source == "f.yaml"
    if line is not None:
        assert problem.line == line


def test_all_duplicates_are_named_at_once():
    with pytest.raises(InputError) as caught:
        read_text("a: 1\na: 2\nb: {c: 1, c: 2}\n", "f.yaml")
    assert [problem.key for problem in caught.value.problems] == ["a", "b.c"]


def test_files_that_are_no_text(tmp_path):
    for content, message in ((b"a: \xff\n", "UTF-8"), (b"#" * (MAX_BYTES + 1), "larger than")):
        path = tmp_path / "f.yaml"
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_file(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_file(tmp_path / "none.yaml")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read_file(tmp_path / "bom.yaml").data == {"a": 1, "b": 2}


def test_values_from_a_command_line():
    assert read_value("4/s", "--set") == "4/s"
    assert read_value("[1, 2]", "--set") == [1, 2]
    assert read_value("{p99: 120 s}", "--set") == {"p99": "120 s"}
    assert read_value("null", "--set") is None
    assert read_value("a: b: c", "--set") == "a: b: c"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.from_regex("[a-z_]{1,8}", fullmatch=True), values, max_size=4))
def test_what_is_written_reads_back(data):
    def clean(value):
        """YAML cannot hold control characters, and keys are words here."""
        if isinstance(value, str):
            return "".join(c for c in value if c.isprintable() or c == "\n")
        if isinstance(value, dict):
            return {f"k{clean(key)}": clean(item) for key, item in value.items()}
        return [clean(item) for item in value] if isinstance(value, list) else value

    data = {key: clean(value) for key, value in data.items()}
    if data:
        assert read_text(write(data), "f").data == data


def test_plain_yaml_agrees_where_both_understand():
    text = "a: 1\nb: [x, 2.5, true]\nc: {d: null}\n"
    assert read_text(text, "f").data == yaml.safe_load(text)
