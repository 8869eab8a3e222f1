"""Classes: the nodes that a class name of a ComfyUI file means, which of them are outputs, and names nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from graphengine import FormatContext, NodeDef, Problem, Where, WorkflowError, nearest

PACK = "comfy"
"""The pack whose nodes are ComfyUI's own classes: `KSampler` is `comfy.KSampler`."""
OUTPUTS = frozenset({
    "ImageCompare", "MaskPreview", "Output", "PreviewAny", "PreviewImage", "SaveAnimatedPNG", "SaveAnimatedWEBP",
    "SaveImage", "SaveImageAdvanced", "SaveImageWebsocket", "SaveLatent", "SaveText", "SaveVideo", "SaveWEBM",
})
"""The classes that are outputs, ComfyUI's and `Output` of ours: a prompt computes what these need, and nothing else."""
MOST_SEARCHED = 100
"""The most names of a file that are searched outside the packs, which takes longer."""
LISTED = 50
"""The most unknown classes that an error lists by name."""

Definition = NodeDef[..., Any]


def definitions_of(context: FormatContext) -> Callable[[str], Definition | None]:
    """Make the function that finds the node of a class: one of the pack `comfy` by its name, any other by its full name
    (`std.sample`); None for an unknown class."""
    nodes, known = context.nodes(), dict[str, Definition | None]()
    searches = iter(range(MOST_SEARCHED))

    def find(class_type: str) -> Definition | None:
        name = class_type if "." in class_type else f"{PACK}.{class_type}"
        if name not in known:
            definition = nodes.get(name)
            if definition is None and "." in class_type and next(searches, None) is not None:
                definition = context.find(name)  # a node of the running script is in no pack
            known[name] = definition if definition is not None and definition.full_name == name else None
        return known[name]

    return find


def class_of(definition: Definition) -> str:
    """The class name of a node in ComfyUI's files."""
    return definition.name if definition.pack == PACK else definition.full_name


def is_output(definition: Definition) -> bool:
    """Whether a node is an output in the sense of ComfyUI: it shows or saves what it is given."""
    return definition.output or (definition.pack == PACK and definition.name in OUTPUTS)


def unknown_classes(nodes_by_class: Mapping[str, Iterable[str]], context: FormatContext | None) -> WorkflowError:
    """Make the error that lists all classes that are not known, with their nodes and the nearest known names.

    Args:
        nodes_by_class: The ids in the file of the nodes of each unknown class.
        context: Knows all nodes; None: no nearest names are given.
    """
    known = [] if context is None else [class_of(definition) for definition in context.nodes().values()]
    listed = list(nodes_by_class)
    sentences, first = [], next(iter(next(iter(nodes_by_class.values()))))
    for name in listed[:LISTED]:
        ids = list(nodes_by_class[name])
        shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5:,} more" if len(ids) > 5 else "")
        near = nearest(name, known) if len(name) < 200 else ()
        like = f"; did you mean {' or '.join(near)}?" if near else ""
        sentences.append(f"{name:.80} ({'node' if len(ids) == 1 else 'nodes'} {shown}{like})")
    if len(listed) > LISTED:
        sentences.append(f"and {len(listed) - LISTED:,} more")
    many = f"{len(listed):,} classes are" if len(listed) > 1 else "a class is"
    hint = "`graphengine nodes comfy` lists the classes that are; nodes of other packs stand under their full names"
    return WorkflowError(Problem(
        "unknown classes", f"{many} not known here: {', '.join(sentences)}", Where(node=first), hint,
        found=", ".join(listed[:LISTED]),
    ))
