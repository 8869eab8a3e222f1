"""YAML 1.2 and JSON texts: what they mean, what is refused and how soon, and that what is written is read back."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphengine import WorkflowError
from graphengine.workflow.yaml12 import MAX_DEPTH, load
from graphengine.workflow.yaml12_write import dump

MISREAD = [
    "no", "On", "y", "1e-4", "0x10", "0o17", "2024-01-01", "12:30:00", "1_000", "~", "", "null", ".inf", ".5", "+1",
    " a", "a ", "a\u2028b", "a\x85b", "😀", "\x00\x07\x1f", "- a", "a: b", "a #b", "|", "a\nb", "a\n\nb\n", " a\nb",
    "a\n  b\n\n", "\n", "\ta\nb", "---", "...", "<<", "=", "*a", "&a", "!x", "%x", "@x", "`", "\ufeff", "\ufffe",
    "\U000f0001", "a\r\nb", "a\n---\nb", "a\n...\nb", "a\n#x", "x" * 2000, "? a", "it's", '"q"', "{a}", "[b]", "a,b",
    "\ta", "a\t", "a:", "ключ", "键: 值",
]  # fmt: skip

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(MISREAD),
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.text() | st.sampled_from(MISREAD), inner, max_size=6)
    ),
    max_leaves=30,
)


def yaml(text: str) -> Any:
    return load(text, "x.yaml")[0]


def problems(text: str, name: str = "x.yaml") -> str:
    with pytest.raises(WorkflowError) as caught:
        load(text, name)
    return str(caught.value)


def exact(value: Any) -> str:
    """Equal for equal values of equal types in equal order only: 1, 1.0 and True differ."""
    return json.dumps(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("y", "y"), ("True", True), ("FALSE", False), ("~", None), ("Null", None),
        ("", None),
        ("1e-4", 1e-4), ("1E3", 1000.0), ("1.", 1.0), (".5", 0.5), ("-0.0", -0.0), ("0o17", 15), ("0x1F", 31),
        ("0123", 123), ("+7", 7), ("1_000", "1_000"), ("12:30:00", "12:30:00"), ("2024-01-01", "2024-01-01"),
        ("0b11", "0b11"), ("'1'", "1"), ('"true"', "true"), ("1.2.3", "1.2.3"), ("=", "="), ("-", [None]), (".", "."),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert exact(yaml(text)) == exact(value)


def test_characters_that_yaml_1_1_took_for_line_breaks_stay_in_texts() -> None:
    assert yaml("a\u2028b") == "a\u2028b"
    assert yaml('{"a\x85b": "c\x85d"}') == {"a\x85b": "c\x85d"}


@settings(max_examples=300, deadline=None)
@given(json_values)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert exact(yaml(dump(value))) == exact(value)
    assert exact(load(json.dumps(value), "x.json")[0]) == exact(value)


@pytest.mark.parametrize("text", MISREAD)
def test_texts_that_yaml_misreads(text: str) -> None:
    for value in (text, [text], {text: text}, {"k": [text, {"a": text}]}, {"a": {"k": {"m": [text, [text]]}}}):
        assert yaml(dump(value)) == value


def test_writing_is_for_people() -> None:
    data = {
        "nodes": {"model": {"node": "load@1", "with": {"source": "tiny", "steps": [1, 2]}}},
        "text": "one\ntwo\n",
        "no": 1e-05,
    }
    assert dump(data) == (
        "nodes:\n  model: {node: load@1, with: {source: tiny, steps: [1, 2]}}\ntext: |\n  one\n  two\n'no': 1.0e-05\n"
    )


def test_long_keys_and_deep_data() -> None:
    assert yaml(dump({"k" * 1500: {"a": 1}, "b": {"c" * 1500: "d"}})) == {"k" * 1500: {"a": 1}, "b": {"c" * 1500: "d"}}
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert yaml(dump(deep)) == deep
    with pytest.raises(WorkflowError, match="nested deeper"):
        dump([deep])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, object(), "\ud800", {"\udc00": 1}])
def test_what_is_no_json_is_not_written(value: Any) -> None:
    with pytest.raises(WorkflowError):
        dump({"a": value})


def test_lines() -> None:
    _, lines = load("a: 1\nb:\n  c: [x, y]\n  d:\n    - e: 1\n    - f\n", "x.yaml")
    assert lines[("b", "c")] == 3
    assert lines[("b", "d", 0, "e")] == 5
    assert lines[("b", "d", 1)] == 6
    _, lines = load('{"a": 1,\n "b": {"c": ["x",\n "y"], "k\\"\\u0041": 2}}', "x.json")
    assert lines[("a",)] == 1
    assert lines[("b",)] == 2
    assert lines[("b", "c", 1)] == 3
    assert lines[("b", 'k"A')] == 3


def test_aliases_are_copies() -> None:
    data = yaml("a: &x {k: [1]}\nb: *x\nc: &y text\n*y : 1")
    assert data == {"a": {"k": [1]}, "b": {"k": [1]}, "c": "text", "text": 1}
    data["a"]["k"].append(2)
    assert data["b"] == {"k": [1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "x.yaml:2: the key 'a' stands here twice (first in line 1)"),
        ("a:\n\t- 1", "x.yaml:2: a tab indents this line (YAML is indented with blanks)"),
        ("a: .nan", "x.yaml:1: .nan is no finite number"),
        ("a: -.INF", "no finite number"),
        ("a: 1e999", "no finite number"),
        ("a: !!str 1", "the tag '!!str' is not read"),
        ("a: !!python/object/apply:os.system [ls]", "is not read"),
        ("a: &x {b: 1}\nc: {<<: *x}", "x.yaml:2: merge keys (`<<`) are no part of YAML 1.2"),
        ("1: a", "the key '1' is no text"),
        ("true: a", "the key 'true' is no text"),
        ("[a]: b", "a list or a mapping cannot be a key"),
        ("a: 1\n---\nb: 2", "x.yaml:2: a second document begins here"),
        ("a: *x", "has no anchor before it"),
        ("a: &x [*x]", "stands inside what it names"),
        ("a: 'b", "this is no YAML"),
        ("a: b: c", "x.yaml:1: this is no YAML"),
        ("a: \x07", "x.yaml:1: the text has a control character, U+0007"),
        ("a\n: \ud800", "control character, U+D800"),
        ("a: " + "9" * 5000, "too many digits"),
    ],
)
def test_refused_yaml(text: str, message: str) -> None:
    assert message in problems(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "a": 2}', "x.json:2: the key 'a' stands here twice (first in line 1)"),
        ('{"a": 1, "\\u0061": 2}', "stands here twice"),
        ('{"a":\n NaN}', "x.json:2: NaN is no JSON"),
        ('{"a": -Infinity}', "-Infinity is no JSON"),
        ('{"a": 1e999}', "too large for a number"),
        ('["\\ud800"]', "half a surrogate pair"),
        ('["\ud800"]', "half a surrogate pair"),
        ("", "this is no JSON"),
        ("{'a': 1}", "this is no JSON"),
        ('{"a": "b\nc"}', "this is no JSON"),
        ('{"a": 1,}', "this is no JSON"),
        ("[" + "9" * 5000 + "]", "too many digits"),
    ],
)
def test_refused_json(text: str, message: str) -> None:
    assert message in problems(text, "x.json")


def test_all_problems_of_a_text_at_once() -> None:
    with pytest.raises(WorkflowError) as caught:
        load("a: .nan\na: !x 1\n2: b", "x.yaml")
    assert [p.kind for p in caught.value.problems] == ["not a number", "duplicate key", "tag", "bad key"]
    assert [p.where.line for p in caught.value.problems] == [1, 2, 2, 3]


LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
DEEP_ALIASES = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 100))


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("[" * 1_000_000, "x.yaml", "nested deeper"),
        ("[" * 1_000_000, "x.json", "nested deeper"),
        ("{a: " * 1_000_000, "x.yaml", "nested deeper"),
        ('{"a":' * 1_000_000, "x.json", "nested deeper"),
        ("- " * 1_000_000, "x.yaml", "nested deeper"),
        ("[" * 100_000_000, "x.yaml", "more than 10 million characters"),
        (LAUGHS, "x.yaml", "aliases of this text stand for more"),
        (DEEP_ALIASES, "x.yaml", "nested deeper"),
        ("&a " + "x" * 9_000_000 + "\n", "x.yaml", ""),
        ('"' + '\\"' * 4_000_000, "x.json", "this is no JSON"),
        ("[" + "1," * 4_000_000, "x.json", "more than 500,000 values"),
    ],
    ids=[
        "lists",
        "json lists",
        "mappings",
        "json mappings",
        "dashes",
        "100 MB",
        "laughs",
        "deep aliases",
        "one text",
        "json text",
        "json items",
    ],
)
def test_texts_that_want_to_cost_much(text: str, name: str, message: str) -> None:
    start = time.process_time()
    if message:
        assert message in problems(text, name)
    else:
        load(text, name)
    assert time.process_time() - start < 10


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab:-[]{},&*!|>'\"#?% \n\t1.~<@`\\\u2028\x85"), max_size=60), st.booleans())
def test_any_text_is_read_or_refused(text: str, as_json: bool) -> None:
    try:
        data, _ = load(text, "x.json" if as_json else "x.yaml")
    except WorkflowError:
        return
    assert exact(yaml(dump(data))) == exact(data)
