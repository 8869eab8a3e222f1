"""Groups of nodes: by pack and by the title of the module that defines them."""

from __future__ import annotations

from pathlib import Path

from graphengine import load_pack
from graphengine.declare.node_groups import node_groups

NODE = "from graphengine import node\n\n\n@node(version=1)\ndef {name}() -> int:\n    return 1\n"


def _titles(folder: Path, files: dict[str, str]) -> dict[str, list[str]]:
    """The groups of a pack with these files, each given as a docstring and the names of its nodes."""
    folder.mkdir()
    for file, text in files.items():
        (folder / file).write_text(text)
    load_pack(folder)
    return {title: [node.name for node in nodes] for title, nodes in node_groups()[folder.name].items()}


def test_nodes_are_grouped_by_the_titles_of_their_modules(tmp_path: Path) -> None:
    found = _titles(tmp_path / "groups_of_titles", {
        "a.py": '"""Colours: what pictures are made of."""\n' + NODE.format(name="grouped_red"),
        "b.py": '"""Colours. The cold ones."""\n' + NODE.format(name="grouped_blue"),
        "c.py": '"""Shapes\n\nAll of them: round and square."""\n' + NODE.format(name="grouped_disk"),
    })  # fmt: skip
    assert found == {"Colours": ["grouped_blue", "grouped_red"], "Shapes": ["grouped_disk"]}


def test_a_module_without_a_title_gives_its_name(tmp_path: Path) -> None:
    found = _titles(tmp_path / "groups_of_names", {
        "warm_colours.py": NODE.format(name="grouped_orange"),
        "long.py": f'"""{"A sentence that never ends and is no title " * 2}"""\n' + NODE.format(name="grouped_line"),
    })  # fmt: skip
    assert found == {"Long": ["grouped_line"], "Warm colours": ["grouped_orange"]}


def test_groups_come_as_their_pack_names_them(tmp_path: Path) -> None:
    found = _titles(tmp_path / "groups_in_order", {
        "__init__.py": "from graphengine import Pack\n\n"
        "__pack__ = Pack('groups_in_order', groups=('Zebras', 'Nothing', 'Cats'))\n",
        "a.py": '"""Ants: small."""\n' + NODE.format(name="grouped_ant"),
        "c.py": '"""Cats: middle."""\n' + NODE.format(name="grouped_cat"),
        "z.py": '"""Zebras: large."""\n' + NODE.format(name="grouped_zebra"),
    })  # fmt: skip
    assert list(found) == ["Zebras", "Cats", "Ants"]


def test_the_standard_pack_names_all_its_groups() -> None:
    from graphengine_nodes import __pack__

    assert list(node_groups()["std"]) == list(__pack__.groups)
    assert list(node_groups()["flow"]) == ["Flow"]
