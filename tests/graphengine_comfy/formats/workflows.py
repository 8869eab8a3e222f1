"""Small workflows as ComfyUI's editor saves them, written for these tests, with the classes that they use.

`recorded.json` holds the prompt that the editor's own `graphToPrompt` makes of each; `test_against_editor` compares.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

SAMPLERS = [["euler", "ddim"], {}]


def _class(name: str, required: dict[str, Any], outputs: list[str], optional: dict[str, Any] | None = None) -> Any:
    return {
        "name": name, "display_name": name, "description": "", "category": "test", "python_module": "nodes",
        "output_node": not outputs, "input": {"required": required, "optional": optional or {}},
        "input_order": {"required": list(required), "optional": list(optional or {})},
        "output": outputs, "output_is_list": [False] * len(outputs), "output_name": outputs,
    }  # fmt: skip


NUMBER = {"default": 512, "min": 0, "max": 10_000}
OBJECT_INFO: dict[str, Any] = {
    found["name"]: found
    for found in (
        _class("Loader", {"name": [["a.st", "b.st"], {}]}, ["MODEL", "CLIP", "VAE"]),
        _class("Encode", {"text": ["STRING", {"multiline": True, "dynamicPrompts": True}], "clip": ["CLIP"]}, ["COND"]),
        _class("Empty", {"width": ["INT", NUMBER], "height": ["INT", NUMBER]}, ["LATENT"], {"batch": ["INT", NUMBER]}),
        _class(
            "Sampler",
            {
                "model": ["MODEL"], "seed": ["INT", {"default": 0, "max": 2**53, "control_after_generate": True}],
                "steps": ["INT", NUMBER], "cfg": ["FLOAT", {"default": 8.0, "max": 100.0}], "sampler": SAMPLERS,
                "positive": ["COND"], "latent": ["LATENT"], "denoise": ["FLOAT", {"default": 1.0, "max": 1.0}],
            },
            ["LATENT"],
        ),
        _class("Decode", {"latent": ["LATENT"], "vae": ["VAE"]}, ["IMAGE"]),
        _class("Sharpen", {"image": ["IMAGE"], "amount": ["FLOAT", {"default": 0.5}]}, ["IMAGE"]),
        _class("Blend", {"mask": ["MASK"], "one": ["IMAGE"], "two": ["IMAGE"]}, ["IMAGE", "MASK"]),
        _class("Open", {"image": [["x.png"], {"image_upload": True}]}, ["IMAGE", "MASK"], {"flag": ["BOOLEAN", {}]}),
        _class("Integer", {"value": ["INT", NUMBER]}, ["INT"]),
        _class("Save", {"images": ["IMAGE"], "prefix": ["STRING", {"default": "ComfyUI"}]}, []),
        _class(
            "Resize",
            {
                "image": ["IMAGE"],
                "how": ["COMFY_DYNAMICCOMBO_V3", {"options": [
                    {"key": "size", "inputs": {"required": {"width": ["INT", NUMBER], "height": ["INT", NUMBER]}}},
                    {"key": "factor", "inputs": {"required": {"by": ["FLOAT", {"default": 2.0}]}}},
                ]}],
                "crop": ["BOOLEAN", {"default": False}],
            },
            ["IMAGE"],
        ),
        _class(
            "Batch",
            {"images": ["COMFY_AUTOGROW_V3", {"template": {
                "input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image", "min": 1, "max": 50,
            }}]},
            ["IMAGE"],
        ),
    )
}  # fmt: skip


class Sheet:
    """A workflow or subgraph under construction: `node` adds a node, whose links name nodes and slots."""

    def __init__(
        self, inputs: list[tuple[str, str]] | None = None, outputs: list[tuple[str, str]] | None = None
    ) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.inputs, self.outputs = inputs or [], outputs or []

    def node(self, id: int, type: str, values: Any = None, mode: int = 0, **links: Any) -> None:
        """Add a node; `links` gives for each input its type, or (type, node, slot), or (type, node, slot, widget)."""
        inputs = []
        for name, given in links.items():
            name = name.replace("__", ".")
            kind, origin, slot, widget = (*((given,) if isinstance(given, str) else given), None, None, None)[:4]
            link = None if origin is None else self.link(origin, slot or 0, id, len(inputs), kind)
            inputs.append({"name": name, "type": kind, "link": link} | ({"widget": {"name": name}} if widget else {}))
        known = OBJECT_INFO.get(type, {}).get("output", ["*"] if type in ("Reroute", "PrimitiveNode") else [])
        outputs = [{"name": kind, "type": kind, "links": []} for kind in known]
        node = {
            "id": id, "type": type, "pos": [id * 250, 0], "size": [200, 100], "flags": {}, "order": id, "mode": mode,
            "inputs": inputs, "outputs": outputs, "properties": {},
        }  # fmt: skip
        self.nodes.append(node | ({} if values is None else {"widgets_values": values}))

    def link(self, origin: int, slot: int, target: int, target_slot: int, kind: str) -> int:
        """Add a link; returns its id."""
        self.links.append([len(self.links) + 1, origin, slot, target, target_slot, kind])
        return len(self.links)

    def give(self, number: int, origin: int, slot: int = 0) -> None:
        """Link an output of a subgraph to a node inside."""
        self.link(origin, slot, -20, number, self.outputs[number][1])

    def linked(self) -> None:
        """Write the ids of links into the outputs that they leave."""
        by_id = {node["id"]: node for node in self.nodes}
        for id, origin, slot, *_ in self.links:
            if origin in by_id and slot < len(by_id[origin]["outputs"]):
                by_id[origin]["outputs"][slot]["links"].append(id)

    def as_objects(self) -> list[dict[str, Any]]:
        """The links as mappings."""
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        return [dict(zip(names, link, strict=True)) for link in self.links]

    def subgraph(self, id: str) -> dict[str, Any]:
        """The definition of a subgraph."""
        self.linked()

        def slots(named: list[tuple[str, str]], end: int, side: int) -> list[dict[str, Any]]:
            return [
                {"id": f"{id[:-4]}{side}{number:03}", "name": name, "type": kind, "pos": [0, 0],
                 "linkIds": [link[0] for link in self.links if link[side] == end and link[side + 1] == number]}
                for number, (name, kind) in enumerate(named)
            ]  # fmt: skip

        return {
            "id": id, "version": 1, "revision": 0, "config": {}, "name": id[:4], "nodes": self.nodes, "groups": [],
            "state": {"lastGroupId": 0, "lastNodeId": 99, "lastLinkId": 99, "lastRerouteId": 0},
            "inputNode": {"id": -10, "bounding": [0, 0, 10, 10]}, "outputNode": {"id": -20, "bounding": [0, 0, 10, 10]},
            "inputs": slots(self.inputs, -10, 1), "outputs": slots(self.outputs, -20, 3), "widgets": [],
            "links": self.as_objects(), "extra": {},
        }  # fmt: skip

    def workflow(self, *subgraphs: dict[str, Any], version: float = 0.4) -> dict[str, Any]:
        """The workflow."""
        self.linked()
        last = max(node["id"] for node in self.nodes)
        data = {"nodes": self.nodes, "groups": [], "config": {}, "extra": {}}
        if version == 1:
            state = {"lastGroupId": 0, "lastNodeId": last, "lastLinkId": len(self.links), "lastRerouteId": 0}
            data |= {"version": 1, "state": state, "links": self.as_objects()}
        else:
            data |= {"version": 0.4, "last_node_id": last, "last_link_id": len(self.links), "links": self.links}
        return data | ({"definitions": {"subgraphs": list(subgraphs)}} if subgraphs else {})


def chain(sheet: Sheet, **changes: Any) -> Sheet:
    """Text to image: 1 loads, 2 encodes, 3 is the empty latent, 4 samples, 5 decodes, 6 saves."""
    sheet.node(1, "Loader", ["b.st"])
    sheet.node(2, "Encode", ["a red circle"], clip=("CLIP", 1, 1))
    sheet.node(3, "Empty", [640, 448, 2])
    latent = changes.get("latent", ("LATENT", 3, 0))
    values = changes.get("values", [5, "randomize", 20, 7.5, "ddim", 0.75])
    sheet.node(4, "Sampler", values, model=("MODEL", 1, 0), positive=("COND", 2, 0), latent=latent,
               **changes.get("more", {}))
    sheet.node(5, "Decode", latent=("LATENT", 4, 0), vae=("VAE", 1, 2))
    if changes.get("save", True):
        sheet.node(6, "Save", ["out"], images=("IMAGE", 5, 0))
    return sheet


ONE, TWO = "11111111-1111-4111-8111-111111110000", "22222222-2222-4222-8222-222222220000"


def _plain() -> Any:
    return chain(Sheet()).workflow()


def _version_1() -> Any:
    return chain(Sheet()).workflow(version=1)


def _defaults() -> Any:
    return chain(Sheet(), values=[5, "fixed", 20]).workflow()


def _named() -> Any:
    data = chain(Sheet(), values=[9]).workflow()
    names = {"seed": 9, "control_after_generate": "fixed", "steps": 4, "cfg": 2.0, "sampler": "euler", "denoise": 0.5}
    data["nodes"][3] |= {"widgets_values": list(names.values()), "widgets_values_named": names}
    return data


def _linked_widget() -> Any:
    sheet = Sheet()
    sheet.node(9, "Integer", [33])
    return chain(sheet, more={"steps": ("INT", 9, 0, True)}).workflow()


def _primitive() -> Any:
    sheet = Sheet()
    sheet.node(9, "PrimitiveNode", [77, "fixed"])
    data = chain(sheet, more={"seed": ("INT", 9, 0, True)}).workflow()
    data["nodes"][0]["outputs"] = [{"name": "INT", "type": "INT", "links": [1], "widget": {"name": "seed"}}]
    return data


def _reroutes() -> Any:
    sheet = Sheet()
    for id in (10, 11, 12):
        sheet.node(id, "Reroute", **{"": ("*", id - 1 if id > 10 else 3, 0)})
    return chain(sheet, latent=("LATENT", 12, 0)).workflow()


def _notes() -> Any:
    sheet = chain(Sheet())
    sheet.node(20, "Note", ["hello"])
    sheet.node(21, "MarkdownNote", ["# hello"])
    return sheet.workflow()


def _muted() -> Any:
    data = _plain()
    data["nodes"][1]["mode"] = 2
    return data


def _bypassed() -> Any:
    sheet = chain(Sheet(), save=False)
    sheet.node(6, "Sharpen", [0.5], mode=4, image=("IMAGE", 5, 0))
    sheet.node(7, "Sharpen", [0.25], mode=4, image=("IMAGE", 6, 0))
    sheet.node(8, "Save", ["out"], images=("IMAGE", 7, 0))
    return sheet.workflow()


def _bypassed_by_type() -> Any:
    sheet = chain(Sheet(), save=False)
    sheet.node(6, "Open", ["x.png", "image", True])
    sheet.node(7, "Blend", mode=4, mask=("MASK", 6, 1), one=("IMAGE", 5, 0), two=("IMAGE", 6, 0))
    sheet.node(8, "Save", ["out"], images=("IMAGE", 7, 0))
    sheet.node(9, "Blend", mask=("MASK", 7, 1), one=("IMAGE", 7, 0), two=("IMAGE", 6, 0))
    sheet.node(10, "Save", ["more"], images=("IMAGE", 9, 0))
    return sheet.workflow()


def _bypassed_without_match() -> Any:
    sheet = chain(Sheet(), save=False)
    sheet.node(6, "Decode", mode=4, latent=("LATENT", 4, 0), vae=("VAE", 1, 2))
    sheet.node(7, "Save", ["out"], images=("IMAGE", 6, 0))
    return sheet.workflow()


def _upload() -> Any:
    sheet = Sheet()
    sheet.node(1, "Open", ["x.png", "image", True])
    sheet.node(2, "Save", ["out"], images=("IMAGE", 1, 0))
    return sheet.workflow()


def _inner(inputs: list[tuple[str, str]], **widgets: Any) -> Sheet:
    """A subgraph that sharpens twice: inputs are `image` and what `widgets` promotes of node 31."""
    sheet = Sheet(inputs, [("IMAGE", "IMAGE")])
    sheet.node(31, "Sharpen", [0.1], image=("IMAGE", -10, 0), **widgets)
    sheet.node(32, "Sharpen", [0.2], image=("IMAGE", 31, 0))
    sheet.give(0, 32)
    return sheet


def _host(sheet: Sheet, id: int, type: str, values: Any = None, mode: int = 0, **links: Any) -> None:
    sheet.node(id, type, values, mode, **links)
    sheet.nodes[-1]["outputs"] = [{"name": "IMAGE", "type": "IMAGE", "links": []}]


PROMOTED = [("image", "IMAGE"), ("amount", "FLOAT")]


def _subgraph() -> Any:
    sheet = chain(Sheet(), save=False)
    _host(sheet, 7, ONE, image=("IMAGE", 5, 0))
    sheet.node(8, "Save", ["out"], images=("IMAGE", 7, 0))
    return sheet.workflow(_inner([("image", "IMAGE")]).subgraph(ONE))


def _promoted(values: Any = (0.9,), **changes: Any) -> Any:
    sheet = chain(Sheet(), save=False)
    if "amount" in changes:
        sheet.node(9, "PrimitiveNode" if changes["amount"] == "primitive" else "Integer", [3])
    amount = ("FLOAT", 9 if "amount" in changes else None, 0, True)
    _host(sheet, 7, ONE, None if values is None else list(values), changes.get("mode", 0), image=("IMAGE", 5, 0),
          amount=amount)
    _host(sheet, 17, ONE, [0.4], image=("IMAGE", 7, 0), amount=("FLOAT", None, 0, True))
    sheet.node(8, "Save", ["out"], images=("IMAGE", 17, 0))
    return sheet.workflow(_inner(PROMOTED, amount=("FLOAT", -10, 1, True)).subgraph(ONE))


def _promoted_primitive() -> Any:
    data = _promoted(amount="primitive")
    primitive = next(node for node in data["nodes"] if node["type"] == "PrimitiveNode")
    primitive["outputs"][0] |= {"type": "FLOAT", "widget": {"name": "amount"}}
    return data


def _proxies() -> Any:
    sheet = chain(Sheet(), save=False)
    _host(sheet, 7, ONE, [0.6, 0.7], image=("IMAGE", 5, 0))
    sheet.nodes[-1]["properties"] = {"proxyWidgets": [["32", "amount"], ["31", "amount"]]}
    sheet.node(8, "Save", ["out"], images=("IMAGE", 7, 0))
    inner = Sheet([("image", "IMAGE")], [("IMAGE", "IMAGE")])
    inner.node(31, "Sharpen", [0.1], image=("IMAGE", -10, 0), amount=("FLOAT", None, 0, True))
    inner.node(32, "Sharpen", [0.2], image=("IMAGE", 31, 0), amount=("FLOAT", None, 0, True))
    inner.give(0, 32)
    return sheet.workflow(inner.subgraph(ONE))


def _nested(values: Any = (0.8,), inner_values: Any = (0.3,)) -> Any:
    sheet = chain(Sheet(), save=False)
    _host(sheet, 7, TWO, list(values), image=("IMAGE", 5, 0), amount=("FLOAT", None, 0, True))
    sheet.node(8, "Save", ["out"], images=("IMAGE", 7, 0))
    outer = Sheet(PROMOTED, [("IMAGE", "IMAGE")])
    _host(outer, 41, ONE, list(inner_values), image=("IMAGE", -10, 0), amount=("FLOAT", -10, 1, True))
    _host(outer, 42, ONE, [0.15], image=("IMAGE", 41, 0), amount=("FLOAT", None, 0, True))
    outer.give(0, 42)
    inner = _inner(PROMOTED, amount=("FLOAT", -10, 1, True))
    return sheet.workflow(inner.subgraph(ONE), outer.subgraph(TWO))


def _promoted_twice(mode: int) -> Any:
    """A widget outside that is one of two nodes inside, the first of which does not run."""
    sheet = chain(Sheet(), save=False)
    _host(sheet, 7, ONE, image=("IMAGE", 5, 0), amount=("FLOAT", None, 0, True))
    sheet.node(8, "Save", ["out"], images=("IMAGE", 7, 0))
    inner = Sheet(PROMOTED, [("IMAGE", "IMAGE")])
    inner.node(31, "Sharpen", [0.1], mode, image=("IMAGE", -10, 0), amount=("FLOAT", -10, 1, True))
    inner.node(32, "Sharpen", [0.2], image=("IMAGE", -10, 0), amount=("FLOAT", -10, 1, True))
    inner.give(0, 32)
    return sheet.workflow(inner.subgraph(ONE))


def _mode_of(data: Any, id: int, mode: int) -> Any:
    data = copy.deepcopy(data)
    scopes = [data["nodes"], *(found["nodes"] for found in data.get("definitions", {}).get("subgraphs", ()))]
    for nodes in scopes:
        for node in nodes:
            if node["id"] == id:
                node["mode"] = mode
    return data


def _through() -> Any:
    sheet = chain(Sheet(), save=False)
    _host(sheet, 7, ONE, image=("IMAGE", 5, 0))
    sheet.node(8, "Save", ["out"], images=("IMAGE", 7, 0))
    inner = Sheet([("image", "IMAGE")], [("IMAGE", "IMAGE")])
    inner.node(31, "Reroute", **{"": ("*", -10, 0)})
    inner.give(0, 31)
    return sheet.workflow(inner.subgraph(ONE))


def _same_ids() -> Any:
    sheet = chain(Sheet(), save=False)
    _host(sheet, 7, ONE, image=("IMAGE", 5, 0))
    sheet.node(8, "Save", ["out"], images=("IMAGE", 7, 0))
    inner = Sheet([("image", "IMAGE")], [("IMAGE", "IMAGE")])
    inner.node(4, "Sharpen", [0.1], image=("IMAGE", -10, 0))
    inner.node(50, "Sharpen", [0.2], image=("IMAGE", 4, 0))
    inner.give(0, 50)
    return sheet.workflow(inner.subgraph(ONE))


def _text(text: str) -> Callable[[], Any]:
    def make() -> Any:
        data = _plain()
        data["nodes"][1]["widgets_values"] = [text]
        return data

    return make


def _dynamic(values: list[Any], **links: Any) -> Callable[[], Any]:
    def make() -> Any:
        sheet = chain(Sheet(), save=False)
        sheet.node(9, "Integer", [11])
        sheet.node(7, "Resize", values, image=("IMAGE", 5, 0), **links)
        sheet.node(8, "Save", ["out"], images=("IMAGE", 7, 0))
        return sheet.workflow()

    return make


def _growing() -> Any:
    sheet = chain(Sheet(), save=False)
    sheet.node(6, "Sharpen", [0.5], image=("IMAGE", 5, 0))
    sheet.node(7, "Batch", images__image0=("IMAGE", 5, 0), images__image1=("IMAGE", 6, 0), images__image2="IMAGE")
    sheet.node(8, "Save", ["out"], images=("IMAGE", 7, 0))
    return sheet.workflow()


def _group() -> Any:
    """Two prompts, a sampler and a decoder in a group node, whose widgets stand on the group."""
    sheet = Sheet()
    sheet.node(1, "Loader", ["b.st"])
    sheet.node(3, "Empty", [640, 448, 2])
    inner = Sheet()
    inner.node(0, "Encode", ["in the group"], clip="CLIP")
    inner.node(1, "Encode", ["unused"], clip="CLIP")
    inner.node(2, "Sampler", [5, "fixed", 20, 7.5, "ddim", 0.75], model="MODEL", positive="COND", latent="LATENT")
    inner.node(3, "Decode", latent="LATENT", vae="VAE")
    group = {
        "nodes": [{key: value for key, value in node.items() if key != "id"} for node in inner.nodes],
        "links": [[0, 0, 2, 1, 20, "COND"], [2, 0, 3, 0, 22, "LATENT"]],
        "external": [[3, 0, "IMAGE"], [1, 0, "COND"]],
    }
    values = ["a red circle", "a blue one", 77, "fixed", 12, 5.5, "euler", 0.5]
    sheet.node(5, "workflow/sampling", values, **{
        "clip": ("CLIP", 1, 1), "Encode clip": ("CLIP", 1, 1), "model": ("MODEL", 1, 0), "latent": ("LATENT", 3, 0),
        "vae": ("VAE", 1, 2),
    })  # fmt: skip
    sheet.nodes[-1]["outputs"] = [
        {"name": "COND", "type": "COND", "links": []}, {"name": "IMAGE", "type": "IMAGE", "links": []},
    ]  # fmt: skip
    sheet.node(6, "Save", ["out"], images=("IMAGE", 5, 1))
    data = sheet.workflow()
    data["extra"] = {"groupNodes": {"sampling": group}}
    return data


def renumbered(name: str, prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt of the editor with our ids: the editor gives a group node and the nodes in it new ones."""
    if name != "group node":
        return prompt
    ids = {f"11:{7 + number}": f"5:{number}" for number in range(4)}

    def new(value: Any) -> Any:
        return [ids.get(value[0], value[0]), value[1]] if isinstance(value, list) else value

    return {
        ids.get(id, id): {**node, "inputs": {key: new(value) for key, value in node["inputs"].items()}}
        for id, node in prompt.items()
    }


WORKFLOWS: dict[str, Callable[[], Any]] = {
    "plain": _plain,
    "version 1": _version_1,
    "fewer values than widgets": _defaults,
    "named values": _named,
    "linked widget": _linked_widget,
    "primitive": _primitive,
    "reroutes": _reroutes,
    "notes": _notes,
    "muted": _muted,
    "bypassed": _bypassed,
    "bypassed by type": _bypassed_by_type,
    "bypassed without a match": _bypassed_without_match,
    "upload button": _upload,
    "subgraph": _subgraph,
    "promoted widget": _promoted,
    "promoted widget without a value": lambda: _promoted(None),
    "promoted widget with a link": lambda: _promoted(amount="link"),
    "promoted widget with a primitive": _promoted_primitive,
    "proxy widgets": _proxies,
    "nested subgraphs": _nested,
    "nested subgraphs without values": lambda: _nested((), ()),
    "promoted widget of a muted node": lambda: _promoted_twice(2),
    "promoted widget of a bypassed node": lambda: _promoted_twice(4),
    "muted subgraph": lambda: _mode_of(_promoted(), 7, 2),
    "bypassed subgraph": lambda: _mode_of(_promoted(), 7, 4),
    "muted inside a subgraph": lambda: _mode_of(_promoted(), 31, 2),
    "bypassed inside a subgraph": lambda: _mode_of(_promoted(), 31, 4),
    "muted subgraph inside a subgraph": lambda: _mode_of(_nested(), 41, 2),
    "bypassed subgraph inside a subgraph": lambda: _mode_of(_nested(), 41, 4),
    "through a subgraph": _through,
    "ids that are taken": _same_ids,
    "comments in a text": _text("a red /* no: blue */ circle // end\non {white}, (x:1.2) \\{kept\\} http://a"),
    "braces in a text": _text('{"a": {"b": [1, 2]}} and }'),
    "dynamic choice": _dynamic(["size", 300, 200, True]),
    "other dynamic choice": _dynamic(["factor", 1.5, True]),
    "dynamic choice with a link": _dynamic(["size", 300, 200, True], how__height=("INT", 9, 0, True)),
    "growing input": _growing,
    "group node": _group,
}
"""The workflows by name."""
