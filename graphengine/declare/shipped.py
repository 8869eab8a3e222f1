"""Workflows that packs bring: the files in the folder `workflows` of a pack, by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".yaml", ".yml", ".json")
"""Endings of workflow files."""


def shipped() -> dict[str, Path]:
    """The workflows that the packs bring which are installed and loaded, by name."""
    from graphengine.declare.registry import modules

    files = [getattr(module, "__file__", None) for module in modules()]
    return workflows_of(Path(file).absolute().parent for file in files if file is not None)


def shipped_unloaded(folders: Iterable[Path] = ()) -> dict[str, Path]:
    """The same without importing any pack, for whoever must be quick: a pack that would not load is among them.

    Args:
        folders: Packs besides the installed ones and those that GRAPHENGINE_PACKS names.
    """
    from graphengine.declare.registry import pack_folders

    return workflows_of([*pack_folders(), *folders])


def workflows_of(packs: Iterable[Path]) -> dict[str, Path]:
    """The workflows in the folders of packs, by name; the first one of a name has it.

    In a checkout, which is installed editable, a pack's folder `workflows` lies at the project's top.
    """
    found: dict[str, Path] = {}
    for pack in packs:
        folder = pack / "workflows"
        if not folder.is_dir() and (pack.parent.parent / "pyproject.toml").is_file():
            folder = pack.parent.parent / "workflows"
        # A JSON twin of a YAML file is the same workflow: the YAML one has the name.
        for file in sorted(folder.glob("*.*"), key=lambda file: (file.suffix == ".json", file.name)):
            if file.suffix in SUFFIXES:
                found.setdefault(file.stem, file)
    return dict(sorted(found.items()))
