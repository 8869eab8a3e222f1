"""Weighted and long prompts against embeddings computed by hand, with transformers alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.families.prompt_weights import parse
from graphengine_nodes.testing import flux as testing_flux
from graphengine_nodes.testing import sd as testing
from graphengine_nodes.testing import sdxl as testing_xl
from graphengine_nodes.weights.files import TINY
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from graphengine import Graph, load

LONG = "a red circle on a blue background, a green tree on a hill, a yellow boat, " * 10
SD = TINY / "model"
SAMPLING: dict[str, Any] = {"seed": 1, "steps": 2, "guidance_scale": 5.0, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return testing_xl.xl_model(tmp_path_factory.mktemp("xl") / "xl")


# --- the grammar ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("", []),
        ("a red house", [("a red house", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("a [less] so", [("a ", 1.0), ("less", 1 / 1.1), (" so", 1.0)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(red: 1.3 )", [("red", 1.3)]),
        ("(red:.5)(blue:2.)", [("red", 0.5), ("blue", 2.0)]),
        ("(red:-1)", [("red", -1.0)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("(a (red:2) b:0.5)", [("a ", 0.5), ("red", 1.0), (" b", 0.5)]),
        ("([red]:3)", [("red", 3 / 1.1)]),
        ("(a)(b)", [("ab", 1.1)]),
        (r"\(a\) \[b\] \\", [(r"(a) [b] " + "\\", 1.0)]),
        (r"(a\))", [("a)", 1.1)]),
        ("a\\b \\", [("a\\b \\", 1.0)]),
        # What has no partner
        ("(a", [("a", 1.1)]),
        ("[a (b", [("a ", 1 / 1.1), ("b", 1 / 1.1 * 1.1)]),
        ("a) b]", [("a) b]", 1.0)]),
        ("a:1.5)", [("a:1.5)", 1.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("[a:0.5]", [("a:0.5", 1 / 1.1)]),
        ("(:1.5)()[]", []),
        # In many lines
        ("a\n(b\nc:1.5)\n", [("a\n", 1.0), ("b\nc", 1.5), ("\n", 1.0)]),
    ],
)
def test_the_grammar(prompt: str, pieces: list[tuple[str, float]]) -> None:
    (found,) = parse(prompt)
    assert [text for text, _ in found] == [text for text, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


def test_break_begins_a_new_part() -> None:
    assert parse("(a BREAK b:1.5) BREAKER BREAK") == [
        [("a ", 1.5)],
        [(" b", 1.5), (" BREAKER ", 1.0)],
        [],
    ]


def test_brackets_without_end_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 4,000 brackets inside one another; make it simpler"):
        parse("[a:" * 30_000)


# --- Stable Diffusion -------------------------------------------------------------------------------------------------


def tokens(tokenizer: Any, pieces: list[tuple[str, float]]) -> tuple[list[int], list[float]]:
    ids = [(id, weight) for text, weight in pieces for id in tokenizer(text).input_ids[1:-1]]
    return [id for id, _ in ids], [weight for _, weight in ids]


def chunks(
    tokenizer: Any, pieces: list[tuple[str, float]], count: int, pad: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and weights, [1, 77] and [1, 77, 1], of each chunk."""
    ids, weights = tokens(tokenizer, pieces)
    found = []
    for start in range(0, 75 * count, 75):
        part, heavy = ids[start : start + 75], weights[start : start + 75]
        rest = 75 - len(part)
        row = [tokenizer.bos_token_id, *part, tokenizer.eos_token_id, *[pad] * rest]
        scale = [1.0, *heavy, *[1.0] * (rest + 1)]
        found.append((torch.tensor([row]), torch.tensor(scale)[None, :, None]))
    return found


@torch.no_grad()
def by_hand(pieces: list[tuple[str, float]], count: int, skip: int = 0) -> torch.Tensor:
    """Stable Diffusion's embeddings of a prompt in so many chunks."""
    tokenizer = CLIPTokenizer.from_pretrained(SD / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(SD / "text_encoder").eval()
    rows = chunks(tokenizer, pieces, count, tokenizer.pad_token_id)
    embeds = []
    for ids, _ in rows:
        states = encoder(ids, output_hidden_states=True).hidden_states
        embeds.append(encoder.final_layer_norm(states[-1 - skip]))
    whole = torch.cat(embeds, dim=1)
    weighted = whole * torch.cat([weights for _, weights in rows], dim=1)
    return weighted * (whole.mean() / weighted.mean())


def test_a_plain_short_prompt_is_that_of_encode_prompt() -> None:
    model = std.load_model("tiny")
    for skip in (0, 2):
        for prompt in ("a red circle", "", "(a (red:1.0) circle:1)"):
            found = std.encode_weighted(model, prompt, "a blue house", clip_skip=skip)
            plain = prompt.replace("(", "").replace(":1.0)", "").replace(":1)", "")
            assert torch.equal(found.positive.embeds, std.encode_prompt(model, plain, skip).embeds)
            assert torch.equal(found.negative.embeds, std.encode_prompt(model, "a blue house", skip).embeds)
    absent = std.encode_weighted(model, "a red circle").negative
    assert absent.absent
    assert torch.equal(absent.embeds, std.encode_prompt(model, None).embeds)


@pytest.mark.parametrize("skip", [0, 1])
def test_weights_are_those_computed_by_hand(skip: int) -> None:
    found = std.encode_weighted(std.load_model("tiny"), "a (red:1.5) [circle]", "(blue) house", skip)
    positive = by_hand([("a ", 1.0), ("red", 1.5), ("circle", 1 / 1.1)], 1, skip)
    assert torch.allclose(found.positive.embeds, positive, atol=1e-6)
    assert torch.allclose(found.negative.embeds, by_hand([("blue", 1.1), ("house", 1.0)], 1, skip), atol=1e-6)


def test_a_long_prompt_is_read_in_chunks() -> None:
    """The mean of the whole is restored, not of each chunk; the shorter prompt is filled with empty chunks."""
    model = std.load_model("tiny")
    found = std.encode_weighted(model, f"{LONG} (moon:1.4)", "a (house:0.7)")
    count = found.positive.embeds.shape[1] // 77
    assert count == 3
    assert torch.allclose(found.positive.embeds, by_hand([(LONG, 1.0), ("moon", 1.4)], count), atol=1e-6)
    assert torch.allclose(found.negative.embeds, by_hand([("a", 1.0), ("house", 0.7)], count), atol=1e-6)
    other = std.encode_weighted(model, "a (house:0.7)", f"{LONG} (moon:1.4)")
    assert torch.equal(other.positive.embeds, found.negative.embeds)
    assert torch.equal(other.negative.embeds, found.positive.embeds)
    for absent in (other.positive.negative, std.encode_weighted(model, f"{LONG} moon").negative):
        assert absent.absent
        assert torch.allclose(absent.embeds, by_hand([], count), atol=1e-6)


def test_there_is_no_limit_of_chunks() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(SD / "tokenizer")
    words = " ".join(["red"] * 75)
    assert len(tokenizer(words).input_ids) == 77, "one token a word"
    model = std.load_model("tiny")
    lengths = [std.encode_weighted(model, text).positive.embeds.shape[1] // 77 for text in (words, f"{words} red")]
    assert lengths == [1, 2]
    assert std.encode_weighted(model, " ".join(["red"] * 1500)).positive.embeds.shape[1] == 20 * 77


def test_break_fills_the_chunk() -> None:
    model = std.load_model("tiny")
    found = std.encode_weighted(model, "a red circle BREAK a blue house").positive.embeds
    parts = [std.encode_prompt(model, text).embeds for text in ("a red circle", "a blue house")]
    assert torch.equal(found, torch.cat(parts, dim=1))


def test_other_tokenizers_padding(tmp_path: Path) -> None:
    """Stable Diffusion 2 pads with another token than the end; a plain prompt is still encode_prompt's."""
    folder = tmp_path / "other"
    folder.mkdir()
    for part in SD.iterdir():
        if part.name != "tokenizer":
            (folder / part.name).symlink_to(part)
    tokenizer = CLIPTokenizer.from_pretrained(SD / "tokenizer")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.save_pretrained(folder / "tokenizer")
    model = std.load_model(folder)
    found = std.encode_weighted(model, "a red circle").positive.embeds
    assert torch.equal(found, std.encode_prompt(model, "a red circle").embeds)
    assert not torch.equal(found, std.encode_prompt(std.load_model("tiny"), "a red circle").embeds)


def test_a_lora_on_the_text_encoder(tmp_path: Path) -> None:
    plain = std.load_model("tiny")
    words = testing.lora(tmp_path / "words.safetensors", seed=2, parts=("text_encoder",))
    changed = std.apply_lora(plain, std.load_lora(words), 0.7)
    found = std.encode_weighted(changed, "a red circle").positive.embeds
    assert torch.equal(found, std.encode_prompt(changed, "a red circle").embeds)
    assert not torch.equal(found, std.encode_weighted(plain, "a red circle").positive.embeds)


def latent(prompt: str, weighted: bool = True, negative: str | None = None) -> torch.Tensor:
    model = std.load_model("tiny")
    if weighted:
        texts = std.encode_weighted(model, prompt, negative)
    else:
        texts = std.Prompts(std.encode_prompt(model, prompt), std.encode_prompt(model, negative))
    return std.sample(model, texts.positive, negative=texts.negative, **SAMPLING).samples


@pytest.mark.parametrize("prompt", [f"(a:{'9' * 45})", "(" * 3000 + "a"], ids=["number", "brackets"])
def test_weights_that_numbers_cannot_hold(prompt: str) -> None:
    with pytest.raises(ValueError, match="the weights in the prompt make its embeddings too large"):
        std.encode_weighted(std.load_model("tiny"), prompt)


def test_the_tail_of_a_long_prompt_changes_the_picture() -> None:
    one, other = f"{LONG} a red circle", f"{LONG} a blue house"
    assert not torch.allclose(latent(one), latent(other), atol=1e-3)
    assert torch.equal(latent(one, weighted=False), latent(other, weighted=False))
    assert not torch.allclose(latent("a tree", negative=one), latent("a tree", negative=other), atol=1e-3)


def test_a_weight_changes_the_picture_and_1_does_not() -> None:
    plain = latent("a red circle", weighted=False)
    assert torch.equal(latent("a (red:1.0) circle"), plain)
    assert not torch.allclose(latent("a (red:1.5) circle"), plain, atol=1e-3)
    for prompt in ("a (red circle", "a red] circle)", "((((a red circle", ":1.5) a red circle", "[(a] red) circle"):
        assert bool(torch.isfinite(latent(prompt)).all())


def test_as_a_node_of_a_file(tmp_path: Path) -> None:
    with Graph() as graph:
        model = std.load_model("tiny")
        texts = std.encode_weighted(model, "a (red:1.5) circle", "(blue)")
        sampled = std.sample(model, texts.positive, negative=texts.negative, **SAMPLING)
        graph.output("latent", sampled)
    graph.save(tmp_path / "weighted.yaml")
    found = load(tmp_path / "weighted.yaml").run()["latent"]
    assert torch.equal(found.samples, latent("a (red:1.5) circle", negative="(blue)"))


def test_what_is_refused(tmp_path: Path) -> None:
    model = std.load_model("tiny")
    with pytest.raises(ValueError, match="clip_skip 4 leaves none of the text encoder's 4 layers"):
        std.encode_weighted(model, "a", clip_skip=4)
    with pytest.raises(ValueError, match="tiny has one text encoder; leave prompt_2 and negative_prompt_2 out"):
        std.encode_weighted(model, "a", prompt_2="b")


# --- SDXL -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def by_hand_xl(
    folder: Path, pieces: list[tuple[str, float]], count: int, skip: int = 0, second: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """SDXL's embeddings of a prompt in so many chunks, and the pooled one."""
    sides = []
    for end, cls in (("", CLIPTextModel), ("_2", CLIPTextModelWithProjection)):
        tokenizer = CLIPTokenizer.from_pretrained(folder / f"tokenizer{end}")
        encoder = cls.from_pretrained(folder / f"text_encoder{end}").eval()
        mine = second if end and second is not None else pieces
        side = []
        for ids, weights in chunks(tokenizer, mine, count, tokenizer.eos_token_id):
            output = encoder(ids, output_hidden_states=True)
            states = output.hidden_states[-2 - skip]
            side.append(states[:, 76:77] + weights * (states - states[:, 76:77]))
        sides.append(torch.cat(side, dim=1))
    return torch.cat(sides, dim=2), output.text_embeds


@pytest.mark.parametrize("skip", [0, 1])
def test_xl_weights_are_those_computed_by_hand(xl: Path, skip: int) -> None:
    found = std.encode_weighted(std.load_model(xl), "a (red:1.5) [circle]", "(blue) house", skip)
    embeds, pooled = by_hand_xl(xl, [("a", 1.0), ("red", 1.5), ("circle", 1 / 1.1)], 1, skip)
    assert torch.allclose(found.positive.embeds, embeds, atol=1e-6)
    assert found.positive.pooled is not None
    assert torch.allclose(found.positive.pooled, pooled, atol=1e-6)
    # Clip skip is for the positive prompt alone.
    embeds, pooled = by_hand_xl(xl, [("blue", 1.1), ("house", 1.0)], 1)
    assert torch.allclose(found.negative.embeds, embeds, atol=1e-6)
    assert found.negative.pooled is not None
    assert torch.allclose(found.negative.pooled, pooled, atol=1e-6)


def test_xl_long_prompts(xl: Path) -> None:
    """The pooled embedding is the last chunk's, also where that one only fills up."""
    found = std.encode_weighted(std.load_model(xl), f"{LONG} (moon:1.4)", "a (house:0.7)")
    count = found.positive.embeds.shape[1] // 77
    assert count == 3
    for side, pieces in (
        (found.positive, [(LONG, 1.0), ("moon", 1.4)]),
        (found.negative, [("a", 1.0), ("house", 0.7)]),
    ):
        embeds, pooled = by_hand_xl(xl, pieces, count)
        assert torch.allclose(side.embeds, embeds, atol=1e-6)
        assert side.pooled is not None
        assert torch.allclose(side.pooled, pooled, atol=1e-6)
    absent = std.encode_weighted(std.load_model(xl), LONG).negative
    assert absent.absent
    assert absent.embeds.shape == std.encode_weighted(std.load_model(xl), LONG).positive.embeds.shape


def test_xl_two_prompts(xl: Path) -> None:
    """The longer one of either encoder decides how many chunks both have."""
    for first, second in (("a (red) circle", LONG), (LONG, "a (red) circle")):
        pieces = {"a (red) circle": [("a", 1.0), ("red", 1.1), ("circle", 1.0)], LONG: [(LONG, 1.0)]}
        found = std.encode_weighted(std.load_model(xl), first, prompt_2=second).positive
        count = found.embeds.shape[1] // 77
        embeds, _ = by_hand_xl(xl, pieces[first], count, second=pieces[second])
        assert count > 1
        assert torch.allclose(found.embeds, embeds, atol=1e-6)


def test_xl_pads_both_encoders_with_the_end(xl: Path) -> None:
    """As its users know it, though the second tokenizer has a padding token of its own."""
    own = json.loads((xl / "tokenizer_2" / "tokenizer_config.json").read_text())
    assert own["pad_token"] != own["eos_token"]
    model = std.load_model(xl)
    plain, weighted = std.encode_prompt(model, "a red circle"), std.encode_weighted(model, "a red circle").positive
    width = CLIPTextModel.from_pretrained(xl / "text_encoder").config.hidden_size
    assert torch.equal(plain.embeds[..., :width], weighted.embeds[..., :width])
    assert not torch.equal(plain.embeds[..., width:], weighted.embeds[..., width:])


def test_xl_the_tail_of_a_long_prompt_changes_the_picture(xl: Path) -> None:
    model = std.load_model(xl)

    def latent_xl(prompt: str) -> torch.Tensor:
        texts = std.encode_weighted(model, prompt)
        return std.sample(model, texts.positive, negative=texts.negative, **SAMPLING).samples

    assert not torch.equal(latent_xl(f"{LONG} a red circle"), latent_xl(f"{LONG} a blue house"))


def test_flux_refuses(tmp_path: Path) -> None:
    model = std.load_model(testing_flux.flux_model(tmp_path / "flux"))
    with pytest.raises(ValueError, match="flux, takes no weights in prompts; use encode_prompt, without them"):
        std.encode_weighted(model, "a (red:1.5) circle")
