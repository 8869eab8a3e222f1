import pytest
from graphengine_comfy.sampling.prompt_weights import DEEPEST, Piece, escaped, weighted_pieces, weighted_texts
from hypothesis import given
from hypothesis import strategies as st

from tests.graphengine_comfy.sampling.reference import numbers

PROMPTS = st.text("ab (:)\\1.5,\n[]embedding", max_size=60)


@pytest.mark.parametrize("prompt", numbers("prompt_weights"))
def test_weights_are_comfyuis(prompt: str) -> None:
    expected = [Piece(text, pytest.approx(weight, abs=1e-9)) for text, weight in numbers("prompt_weights")[prompt]]
    assert weighted_texts(prompt) == expected


@given(st.text(max_size=60))
def test_an_escaped_text_is_the_text_itself(text: str) -> None:
    assert "".join(piece.text for piece in weighted_texts(escaped(text))) == text
    assert all(piece.weight == 1 for piece in weighted_texts(escaped(text)))


@given(st.text("ab c,.", min_size=1), st.floats(-10, 10))
def test_a_number_is_the_weight_whatever_is_around(text: str, weight: float) -> None:
    assert weighted_texts(f"((x ({text}:{weight!r}):3))")[1] == Piece(text, weight)


@given(PROMPTS)
def test_nothing_is_invented(prompt: str) -> None:
    """What is read is the prompt in its order, without brackets, escapes and numbers."""
    texts = "".join(piece.text for piece in weighted_texts(prompt))
    rest = iter(prompt)
    assert all(sign in rest for sign in texts)


@given(PROMPTS)
def test_embeddings_leave_texts_and_weights_as_they_are(prompt: str) -> None:
    whole = weighted_texts(prompt)
    split = weighted_pieces(prompt)
    assert "".join(piece.text for piece in split).replace(" ", "") == "".join(p.text for p in whole).replace(" ", "")
    assert {piece.weight for piece in split} <= {piece.weight for piece in whole}
    assert all(piece.text for piece in split)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a embedding:dog, b", [("a", 1, None), ("embedding:dog", 1, "dog"), (", b", 1, None)]),
        ("embedding:one embedding:two", [("embedding:one", 1, "one"), ("embedding:two", 1, "two")]),
        ("(embedding:bad_hands:1.5)", [("embedding:bad_hands", 1.5, "bad_hands")]),
        ("x\nembedding:a.pt", [("x\n", 1, None), ("embedding:a.pt", 1, "a.pt")]),
        ("anembedding:x embedding:", [("anembedding:x embedding:", 1, None)]),
    ],
)
def test_embeddings_are_recognised(prompt: str, pieces: list[tuple[str, float, str | None]]) -> None:
    assert weighted_pieces(prompt) == [Piece(*piece) for piece in pieces]


def test_what_has_no_finite_weight_or_no_end_is_refused() -> None:
    with pytest.raises(ValueError, match="the weight nan"):
        weighted_texts("a (b:nan)")
    with pytest.raises(ValueError, match="more than 200 brackets"):
        weighted_texts("(" * (DEEPEST + 1) + "a" + ")" * (DEEPEST + 1))
    assert weighted_texts("(" * 100_000 + "a") == [Piece("(" * 100_000 + "a", 1.0)]
