"""Templates draw the same prompts as the original multigen, and wildcards depend on the seed alone."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
from graphengine_nodes.nodes.templates import check, draw

from graphengine import Graph, NodeError, load

HOUSES: Any = [
    "a house",
    ["red", "blue", ["+", "dark", ["green", "grey"]]],
    {"w": ["snow", "rain"], "p": 0.5},
    ["+", "by", {"w": "old", "p": 0.3}, "masters"],
]


def by_hand(seed: int) -> str:
    """What HOUSES gives, its draws written out one after the other."""
    rng = random.Random(seed)
    color = ["red", "blue", None][rng.randint(0, 2)]
    if color is None:
        color = "dark " + ["green", "grey"][rng.randint(0, 1)]
    parts = ["a house", color]
    if rng.random() < 0.5:
        parts.append(["snow", "rain"][rng.randint(0, 1)])
    parts.append("by old masters" if rng.random() < 0.3 else "by masters")
    return ", ".join(parts)


def test_draws_are_the_originals_for_every_seed() -> None:
    assert [draw(HOUSES, random.Random(seed)) for seed in range(300)] == [by_hand(seed) for seed in range(300)]
    assert len({by_hand(seed) for seed in range(300)}) == 4 * 3 * 2


def test_noted_prompts_stay_what_they_were() -> None:
    """Constants: a change of the way of drawing would give users other prompts for the seeds that they wrote down."""
    assert std.prompt_from_template(HOUSES, seed=1).prompt == "a house, red, by masters"
    assert std.prompt_from_template(HOUSES, seed=2**48).prompt == by_hand(2**48)


def test_the_negative_prompt_is_drawn_after_the_prompt() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        expected = draw(HOUSES, rng), draw([["blurred", "dark", "cut off"]], rng)
        assert std.prompt_from_template(HOUSES, [["blurred", "dark", "cut off"]], seed) == expected


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("a {red|blue} house, ", "a {red|blue} house, "),
        ([], None),
        (["a", "b"], "a, b"),
        (["a", ["b"]], "a, b"),
        ([["+", "a", "b"], "c"], "a b, c"),
        ([["+"]], ""),
        ([{"w": "never", "p": 0}, "a", {"w": "always", "p": 1}], "a, always"),
        ([{"w": ["+", "a", {"w": "never", "p": 0}], "p": 1.0}], "a"),
        (("a", "b"), "a, b"),
        # As in the original: nothing stands before the first text, but an empty one after it is joined too.
        (["", "a", ""], "a, "),
        (["a", ["+", {"w": "never", "p": 0}]], "a, "),
        # Less than p, not p itself.
        ([{"w": "never", "p": random.Random(0).random()}], ""),
    ],
)
def test_the_grammar(template: Any, text: str | None) -> None:
    if text is None:
        with pytest.raises(ValueError, match="prompt is an empty list"):
            draw(template, random.Random(0))
    else:
        assert draw(template, random.Random(0)) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (["a", ["b", 3]], r"prompt\[1\]\[1\] is 3; a template's parts are texts, lists and"),
        (["a", [{"w": ["b", None], "p": 0.0}]], r"prompt\[1\]\[0\]\.w\[1\] is None;"),
        (["a", {"w": "b"}], r"""prompt\[1\] is \{'w': 'b'\}; it needs "w", a part, and "p", the probability"""),
        (["a", {"p": 0.5}], r"prompt\[1\] is .* it needs"),
        (["a", {"w": "b", "p": "often"}], r"prompt\[1\] is .* it needs"),
        (["a", []], r"prompt\[1\] is an empty list"),
        (None, "prompt is None"),
        (7, "prompt is 7"),
    ],
)
def test_a_bad_template_says_where(template: Any, message: str) -> None:
    """Whatever would be drawn: also in an alternative that this seed does not take."""
    with pytest.raises(ValueError, match=message):
        check(template)
    with pytest.raises(ValueError, match=message):
        std.prompt_from_template(template, seed=3)


def test_as_a_node_of_a_file(tmp_path: Path) -> None:
    with Graph() as graph:
        seed = graph.input("seed", int, 0)
        texts = std.prompt_from_template(HOUSES, ["dark"], seed=seed)
        graph.output("prompt", texts.prompt)
        graph.output("negative", texts.negative_prompt)
    graph.save(tmp_path / "prompt.yaml")
    found = load(tmp_path / "prompt.yaml").run(inputs={"seed": 5})
    assert found == {"prompt": by_hand(5), "negative": "dark"}
    with Graph() as graph:
        graph.output("prompt", std.prompt_from_template(["a", [3]]).prompt)
    with pytest.raises(NodeError, match=r"prompt\[1\]\[0\] is 3"):
        graph.run()


# --- wildcards --------------------------------------------------------------------------------------------------------


def test_wildcards_take_one_of_each() -> None:
    text = "a {red|blue|{dark|light} green} {house|tree}{ by night|}"
    found = Counter(std.expand_wildcards(text, seed) for seed in range(2000))
    colors = ["red", "blue", "dark green", "light green"]
    expected = {f"a {c} {thing}{end}" for c in colors for thing in ("house", "tree") for end in (" by night", "")}
    assert set(found) == expected
    thirds = sum(count for prompt, count in found.items() if " red " in prompt)
    assert 580 < thirds < 750, "each alternative equally likely"
    assert std.expand_wildcards(text, 7) == std.expand_wildcards(text, 7)


def test_only_what_is_taken_is_drawn_from() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        first = ["a", ["b", "c"][rng.randint(0, 1)]][1] if rng.randint(0, 1) else "a"
        assert std.expand_wildcards("{a|{b|c}}", seed) == first


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("", ""),
        ("a | b", "a | b"),
        ("{a}", "a"),
        ("a{}b", "ab"),
        (r"\{a|b\}", "{a|b}"),
        (r"{a\|b}", "a|b"),
        (r"{\{\}}", "{}"),
        (r"\(a\) (b:1.3) [c] \\ \n", r"\(a\) (b:1.3) [c] \\ \n"),
        (r"\\{a}", r"\\a"),
        ("a\\", "a\\"),
        ("{a\nb}", "a\nb"),
        ("{" * 5000 + "a" + "}" * 5000, "a"),
    ],
)
def test_signs(text: str, expanded: str) -> None:
    assert std.expand_wildcards(text, 1) == expanded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a {b|c", "sign 3, an opening brace, is never closed"),
        ("{a {b}", "sign 1, an opening brace, is never closed"),
        ("a} b", "sign 2, a closing brace, opens nowhere"),
    ],
)
def test_a_brace_without_a_partner(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        std.expand_wildcards(text)
