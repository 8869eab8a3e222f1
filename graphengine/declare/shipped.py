"""Shipped workflows: the files in the folder `workflows` of each pack, by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".yaml", ".yml", ".json")
"""Endings of workflow files."""


def shipped() -> dict[str, Path]:
    """The workflows of all installed and loaded packs, by name."""
    from graphengine.declare.registry import modules

    files = [getattr(module, "__file__", None) for module in modules()]
    return workflows_of(Path(file).absolute().parent for file in files if file is not None)


def shipped_unloaded(folders: Iterable[Path] = ()) -> dict[str, Path]:
    """The workflows of all installed packs by name, without importing any pack (for shell completion).

    Packs that could not be loaded are included.

    Args:
        folders: Further packs, besides the installed ones and those that GRAPHENGINE_PACKS names.
    """
    from graphengine.declare.registry import pack_folders

    return workflows_of([*pack_folders(), *folders])


def workflows_of(packs: Iterable[Path]) -> dict[str, Path]:
    """The workflows in the folders of packs, by name; the first pack that has a name is taken.

    In an editable install from a checkout, a pack's folder `workflows` is at the top of the project.
    """
    files: dict[str, Path] = {}
    for pack in packs:
        folder = pack / "workflows"
        if not folder.is_dir() and (pack.parent.parent / "pyproject.toml").is_file():
            folder = pack.parent.parent / "workflows"
        # Of a YAML and a JSON file with one name, the YAML file is taken.
        for file in sorted(folder.glob("*.*"), key=lambda file: (file.suffix == ".json", file.name)):
            if file.suffix in SUFFIXES:
                files.setdefault(file.stem, file)
    return dict(sorted(files.items()))
