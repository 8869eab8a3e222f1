"""The lists of modules in docs/structure.md: one line for each, in the order of the floors in pyproject.toml.

`python -m tests.docs.structure` writes them into the page anew, from the first sentences of the modules' docstrings.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from tests import ROOT

PAGE = ROOT / "docs" / "structure.md"
HOUSES = {
    "graphengine": ROOT, "graphengine_nodes": ROOT / "nodes", "graphengine_comfy": ROOT / "nodes", "multigen": ROOT,
}  # fmt: skip
MARK = re.compile(r"<!-- modules of ([\w.]+) -->\n.*?<!-- end -->", re.DOTALL)


def floors(package: str) -> list[str]:
    """The sub-packages and modules of a package, the highest floor first; by name where no floors are declared."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for contract in contracts:
        if contract.get("containers") == [package]:
            return [name.strip() for layer in contract["layers"] for name in layer.split("|")]
    folder = HOUSES[package.partition(".")[0]] / package.replace(".", "/")
    return sorted(entry.stem for entry in folder.iterdir() if entry.suffix == ".py" or (entry / "__init__.py").exists())


def title(file: Path) -> str:
    """The first sentence of a module's docstring."""
    first = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n\n")[0]
    found = re.match(r".*?\.(?=\s|$)", first.replace("\n", " "))
    return found[0] if found else first


def listing(package: str) -> list[str]:
    """The lines for a package: its sub-packages with their modules, and its own modules."""
    folder = HOUSES[package.partition(".")[0]] / package.replace(".", "/")
    lines: list[str] = []
    for name in floors(package):
        if (folder / name / "__init__.py").exists():
            lines += ["", f"**`{name}/`** {title(folder / name / '__init__.py')}", ""]
            if f"{package}.{name}" == "graphengine.service":
                continue  # it has a list of its own
            files = sorted(f for f in (folder / name).rglob("*.py") if f.name != "__init__.py")
            lines += [f"- `{f.relative_to(folder).with_suffix('')}`: {title(f)}" for f in files] + [""]
        elif name != "__init__":
            lines.append(f"- `{name}`: {title(folder / f'{name}.py')}")
    return lines


def rendered(page: str) -> str:
    """The page with its lists as they must be."""

    def fill(match: re.Match[str]) -> str:
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(listing(match[1]))).strip("\n")
        return f"<!-- modules of {match[1]} -->\n\n{text}\n\n<!-- end -->"

    return MARK.sub(fill, page)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
