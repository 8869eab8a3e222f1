"""Names in LoRA files: which layer and which factor each tensor is, in the spellings of all trainers. No torch.

A name is a part of a model (`lora_te1_`, `unet.`, `diffusion_model.`), a layer, and a factor (`.lora_down.weight`).
Layers are compared with underscores for dots, since half of the spellings have these; the families know what a layer is
called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from graphengine import ModelError
from graphengine_nodes.weights.headers import Header

DENOISER = "denoiser"

PREFIXES: Sequence[tuple[str, str]] = (
    ("base_model.model.", ""),
    ("model.diffusion_model.", DENOISER),
    ("diffusion_model.", DENOISER),
    ("unet.", DENOISER),
    ("transformer.", DENOISER),
    ("lora_unet_", DENOISER),
    ("lora_transformer_", DENOISER),
    ("lycoris_", ""),
    ("lora_te_", "te"),
    ("lora_te1_", "te1"),
    ("lora_te2_", "te2"),
    ("lora_te3_", "te3"),
    ("text_encoders.", ""),
    ("clip_l.", "clip_l"),
    ("clip_g.", "clip_g"),
    ("t5xxl.", "t5xxl"),
    ("t5.", "t5xxl"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder_3.", "text_encoder_3"),
)
"""What names begin with: of peft, the original code, diffusers, kohya's trainer, OneTrainer, LyCORIS and ComfyUI; and
the part of the model that each stands for, if it says one. They may follow one another."""

FOLDED = ("lora_", "diffusion_model.", "text_encoders.")
"""Prefixes of the files whose scales diffusers multiplies into FLUX's factors, which decides the last bits."""

FACTORS: Sequence[tuple[str, str]] = (
    (r"(?P<layer>.+?)(?:\.lora_linear_layer|\.lora|_lora(?P<nth>\d?))\.(?P<role>down|up)\.weight", ""),
    (r"(?P<layer>.+)\.lora_(?P<role>down|up|mid|A|B)(?:\.(?!weight|bias)[\w-]+)?\.weight", ""),
    (r"(?P<layer>.+)\.lora_(?:up|B)(?:\.(?!weight|bias)[\w-]+)?\.bias", "up_bias"),
    (r"(?P<layer>.+)\.lora_magnitude_vector(?:\.(?!weight)[\w-]+)?(?:\.weight)?", "magnitude"),
    (r"(?P<layer>.+)\.(?P<role>alpha|dora_scale|diff|diff_b)", ""),
    (r"(?P<layer>.+)\.(?P<role>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))", ""),
    (r"(?P<layer>.+)\.w_norm", "diff"),
    (r"(?P<layer>.+)\.b_norm", "diff_b"),
)
"""The ends of names, and the factor that each is, where the end does not say it."""

ROLES = {"A": "down", "B": "up"}

FORMS: Mapping[str, Sequence[str]] = {
    "low-rank": ("down up", "down up mid", "down up up_bias", "down up mid up_bias"),
    "loha": (
        "hada_w1_a hada_w1_b hada_w2_a hada_w2_b",
        "hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2",
    ),
    "lokr": (
        "lokr_w1 lokr_w2",
        "lokr_w1 lokr_w2_a lokr_w2_b",
        "lokr_w1 lokr_w2_a lokr_w2_b lokr_t2",
        "lokr_w1_a lokr_w1_b lokr_w2",
        "lokr_w1_a lokr_w1_b lokr_w2_a lokr_w2_b",
        "lokr_w1_a lokr_w1_b lokr_w2_a lokr_w2_b lokr_t2",
    ),
    "full": ("diff",),
}
"""The forms of a weight's change, and the sets of factors that each may have. A full difference may be beside another
form, `alpha` and one of `MAGNITUDES` beside any form, and `diff_b` alone or beside any."""

MAGNITUDES = ("dora_scale", "magnitude")
"""DoRA's factor: of LyCORIS and of peft."""

REFUSED = {
    "an OFT or BOFT": r"\.(oft_blocks|oft_diag|oft_[RrSs]|boft_[RrSs])(\.|$)",
    "a GLoRA": r"\.(a1|a2|b1|b2|bm1|bm2|glora_\w+)(\.weight)?$",
    "an IA3": r"\.(on_input|ia3_l)(\.|$)",
    "a VeRA": r"\.vera_\w+",
    "a LoRA with changes of an embedding table": r"\.lora_embedding_[AB](\.|$)",
    "a LoRA with embeddings in it": r"^bundle_emb\.",
    "a LoRA that makes layers larger": r"\.reshape_weight$",
    "a LoRA with whole weights in place of the model's": r"\.set_weight$",
    "a control LoRA": r"^lora_controlnet$",
    "a ControlNet-LLLite": r"^lllite_",
}
"""Kinds of changes that are not read, and the names of tensors that only they have."""


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """The change of one layer in a LoRA's file.

    Attributes:
        part: The part of the model as its name says it: `denoiser`, `te2`, `clip_l`, ...
        name: The layer, without the part and with underscores for dots.
        tensors: The name of each factor's tensor: `down`, `up`, `alpha`, `hada_w1_a`, `diff`, ...
        folded: Whether its spelling is one of `FOLDED`.
    """

    part: str
    name: str
    tensors: dict[str, str] = field(default_factory=dict)
    folded: bool = False

    @property
    def first(self) -> str:
        """The name of a tensor that stands for the layer in messages."""
        return next((name for role, name in self.tensors.items() if role != "alpha"), "") or self.tensors["alpha"]

    @property
    def kinds(self) -> list[str]:
        """The forms in which it changes the weight, of `FORMS` and in its order."""
        return [kind for kind in FORMS if self.of(kind)]

    @property
    def kind(self) -> str:
        """The first of its forms, or `bias` where the weight stays; `full` may be there beside another."""
        return next(iter(self.kinds), "bias")

    def of(self, kind: str) -> list[str]:
        """Its factors that are of a form, in the order in which `FORMS` names them."""
        return [role for role in dict.fromkeys(" ".join(FORMS[kind]).split()) if role in self.tensors]


def lora_layers(header: Header, file: Path) -> list[LoraLayer]:
    """Find the layers that a LoRA's file changes.

    Raises:
        ModelError: It is no LoRA, of a kind that is not read, or a factor is missing or there twice.
    """
    found: dict[tuple[str, str], LoraLayer] = {}
    for name in sorted(header):
        part, layer, role, folded = _parsed(name, file)
        change = found.setdefault((part, layer), LoraLayer(part, layer, {}, folded))
        if role in change.tensors:
            raise ModelError(f"{file} changes one layer twice, by {change.tensors[role]} and by {name}")
        change.tensors[role] = name
    if not found:
        raise ModelError(f"{file} is no LoRA: it holds no tensors")
    for change in found.values():
        _check_forms(change, file)
        _check_shapes(change, header, file)
    return list(found.values())


def _parsed(name: str, file: Path) -> tuple[str, str, str, bool]:
    """The part, layer and factor of a tensor, and whether it is of a spelling in `FOLDED`."""
    match, role = next(((m, r) for pattern, r in FACTORS if (m := re.fullmatch(pattern, name))), (None, ""))
    if match is None:
        kind = next((kind for kind, pattern in REFUSED.items() if re.search(pattern, name)), None)
        if kind is None:
            raise ModelError(f"{file} is no LoRA of a known kind: nothing is known about {name}")
        read = "LoRA, LoCon, DoRA, LoHa, LoKr and full differences are"
        raise ModelError(f"{file} is {kind} ({name}), which is not read; {read}")
    named = match.groupdict()
    role = role or str(named["role"])
    layer, part = str(named["layer"]), ""
    while step := next(((p, says) for p, says in PREFIXES if layer.startswith(p) and len(p) < len(layer)), None):
        layer, part = layer.removeprefix(step[0]), part or step[1]
    # `attn1.processor.to_q_lora` is the layer `attn1.to_q`, `processor.qkv_lora1` is `qkv1`.
    layer = layer.replace(".processor", "").replace(".", "_") + str(named.get("nth") or "")
    if not part:
        part = "te" if layer.startswith(("text_model_", "encoder_layers_")) else DENOISER
    return part, layer, ROLES.get(role, role), name.startswith(FOLDED)


def _check_forms(change: LoraLayer, file: Path) -> None:
    """Refuse factors that are not the whole of one form, or that nothing would use."""
    for kind in change.kinds:
        mine, sets = change.of(kind), [set(roles.split()) for roles in FORMS[kind]]
        for pair in combinations(mine, 2):
            if not any(roles.issuperset(pair) for roles in sets):
                raise _twice(change, file, *pair)
        whole = min((roles for roles in sets if roles.issuperset(mine)), key=len)
        if missing := sorted(whole.difference(mine)):
            raise _incomplete(change.first, missing[0].replace("_", " "), file)
    one = [kind for kind in change.kinds if kind != "full"]
    if len(one) > 1:
        raise _twice(change, file, change.of(one[0])[0], change.of(one[1])[0])
    if set(MAGNITUDES) <= change.tensors.keys():
        raise _twice(change, file, *MAGNITUDES)
    factors = {role for kind in change.kinds for role in change.of(kind)}
    beside = {"diff_b", "alpha", *MAGNITUDES} if factors else {"diff_b"}
    if unused := sorted(change.tensors.keys() - factors - beside):
        raise _incomplete(change.tensors[unused[0]], "change of the weight", file)


def _check_shapes(change: LoraLayer, header: Header, file: Path) -> None:
    """Refuse factors that are no matrices or hold no numbers, which is a rank of 0."""
    factors = {role for kind in change.kinds for role in change.of(kind)} - {"up_bias", "diff"}
    for role, name in change.tensors.items():
        shape = header[name]["shape"]
        if 0 in shape or (role in factors and len(shape) < 2):
            raise ModelError(
                f"{file} is damaged: {name} is {list(shape)}, which is no factor of a change; copy it again"
            )


def _incomplete(name: str, missing: str, file: Path) -> ModelError:
    return ModelError(f"{file} is incomplete: beside {name} there is no {missing}; copy it again")


def _twice(change: LoraLayer, file: Path, first: str, second: str) -> ModelError:
    ways = [f"{change.tensors[role]} ({_called(role)})" for role in (first, second)]
    return ModelError(
        f"{file} changes one layer in two ways, by {ways[0]} and by {ways[1]}; give each a file of its own"
    )


def _called(role: str) -> str:
    """The form that a factor is of."""
    return next((kind for kind, sets in FORMS.items() if role in " ".join(sets).split()), "DoRA")


# --- where changes belong ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """The layers of a model's module that a layer of a LoRA's file changes.

    Attributes:
        paths: One, or those that are one layer in the file: each takes its part of the rows, in this order.
        swapped: The file has the second half of the rows first.
    """

    paths: tuple[str, ...]
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class LoraNames:
    """The names by which LoRAs call the layers of a family's models.

    Attributes:
        parts: The component that each part named in files stands for.
        places: For a component and the paths of its layers, where each name in files belongs.
        folds: Scales are multiplied into the factors, as diffusers does, where the spelling is one of `FOLDED`.
        second: The component that is built as the denoiser is, and has its names in files: for the steps with little
            noise. Empty where there is none.
    """

    parts: Mapping[str, str]
    places: Callable[[str, Sequence[str]], Mapping[str, Place]]
    folds: bool = False
    second: str = ""

    def reaches(self, component: str, noise: str) -> bool:
        """Whether a LoRA for a model's denoiser of `high` or `low` noise, or `both`, changes a component."""
        if component == self.second:
            return noise in ("low", "both")
        return noise != "low" or component != self.parts.get(DENOISER)

    def named(self, component: str) -> str:
        """The component by whose names files call a component's layers."""
        return self.parts[DENOISER] if component == self.second else component

    def component(self, layer: LoraLayer) -> str | None:
        """The component that a layer belongs to; None where the family has none of this name."""
        return self.parts.get(layer.part)
