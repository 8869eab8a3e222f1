"""Names of a transformer's layers in the code that it was published with: one table, by which single files are read
and LoRAs find their layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from graphengine_nodes.layouts.places import Place, Places, Shapes, count

ENDS = {"weight": "weight", "bias": "bias", "scale": "weight"}
"""The last parts of the names of a layer's tensors in files, and in the module: norms have a scale in some files."""

Layers = Mapping[str, str | tuple[str, ...]]
"""By a layer's name in the original code, its path in the module; or the paths of those of equal size that are one
there, one below the other."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Numbered blocks of a transformer.

    Attributes:
        old: What stands before their numbers in the original code.
        new: What stands there in diffusers.
        layers: The layers of each.
    """

    old: str
    new: str
    layers: Layers


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a transformer's layers.

    Attributes:
        outer: The layers outside of blocks.
        blocks: Its blocks.
        swapped: Layers of `outer` that give a shift and a scale, in the other order than in diffusers.
        parts: How tensors that are one in a file are parted: copied, or as views of it, as diffusers' converter does.
    """

    outer: Layers
    blocks: tuple[Blocks, ...]
    swapped: tuple[str, ...] = ()
    parts: Literal["", "view"] = ""

    def layers(self, number_of: Callable[[Blocks], int]) -> dict[str, tuple[str, ...]]:
        """The paths of all layers by their original names.

        Args:
            number_of: How many blocks of a kind there are.
        """
        found = {old: new if isinstance(new, tuple) else (new,) for old, new in self.outer.items()}
        for block in self.blocks:
            for number in range(number_of(block)):
                for old, new in block.layers.items():
                    paths = new if isinstance(new, tuple) else (new,)
                    found[f"{block.old}.{number}.{old}"] = tuple(f"{block.new}.{number}.{path}" for path in paths)
        return found

    def places(self, shapes: Shapes) -> Places:
        """The places of a module's tensors in a file with these names; what it lacks is left out."""
        found: Places = {}
        for old, paths in self.layers(lambda block: count(shapes, block.old)).items():
            for end, here in ENDS.items():
                if (name := f"{old}.{end}") not in shapes:
                    continue
                if len(paths) == 1:
                    found[f"{paths[0]}.{here}"] = Place(name, change="halves swapped" if old in self.swapped else "")
                    continue
                size = shapes[name][0] // len(paths)
                for number, path in enumerate(paths):
                    found[f"{path}.{here}"] = Place(name, (number * size, (number + 1) * size), self.parts)
        return found


QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
ADDED_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
"""Queries, keys and values of the picture's and of the text's side of a double block."""
