"""docs/guides/families.md says what each family takes, as the families' records do."""

from __future__ import annotations

from graphengine_nodes.families.lookup import families

from tests.docs.families import PAGE, cell, rendered, table, tasks


def test_the_table_of_families_is_as_their_records_are() -> None:
    page = PAGE.read_text()
    assert rendered(page) == page, "run `python -m tests.docs.families`"


def test_every_family_has_a_row() -> None:
    assert all(f"| `{name}`" in table() for name in families())


def test_a_cell_says_what_goes_together() -> None:
    held = dict.fromkeys(["", "controlnet+inpaint", "controlnet", "controlnet+image"])
    assert cell("controlnet", held) == "yes, with mask, with picture"
    assert cell("references", held) == ""
    limits = {task.several for _, held, _ in tasks() for name, task in held.items() if task and name == "references"}
    assert all(f"yes (up to {most})" in table() for most in limits if most > 1)
