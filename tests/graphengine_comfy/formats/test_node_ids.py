from __future__ import annotations

from graphengine_comfy.formats.node_ids import our_ids


def test_ids_are_made_of_letters_digits_and_underscores() -> None:
    assert our_ids(["3", "57:3", "a b", "ü"]) == {"3": "n3", "57:3": "n57_3", "a b": "na_b", "ü": "n_"}


def test_ids_that_would_become_the_same_are_told_apart() -> None:
    ids = our_ids(["57:3", "57_3", "57.3", "57_3_2"])
    assert len(set(ids.values())) == 4
    many = our_ids([f"{chr(0x4E00 + n)}" for n in range(20_000)])
    assert len(set(many.values())) == 20_000
