"""Scenes in words, with the freedom of prompts: synonyms, tags, parts left out, words that mean nothing here."""

from __future__ import annotations

import random

from training.world import COLOURS, Scene, Thing

PLACE = {
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "top": ("at the top", "on top"),
    "bottom": ("at the bottom",),
    "center": ("in the center", "in the middle"),
    "top left": ("at the top left", "in the top left corner"),
    "top right": ("at the top right", "in the top right corner"),
    "bottom left": ("at the bottom left", "in the bottom left corner"),
    "bottom right": ("at the bottom right", "in the bottom right corner"),
}
WHERE = {
    "meadow": ("in a meadow", "on the grass", "in a green field"),
    "sea": ("at sea", "in the sea", "on the water"),
    "beach": ("on a beach", "on the sand"),
    "snow": ("in the snow", "in winter"),
    "night": ("at night", "under a starry sky"),
    "sunset": ("at sunset", "in the evening"),
}
SIZE_WORD = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge"), "medium": ("",)}
OPENING = ("", "", "", "", "a picture of ", "a drawing of ", "an image of ", "a photo of ")
NUMBER = {1: "one", 2: "two", 3: "three"}
COLOUR_KEPT = 0.93  # how often a caption names a thing's colour

# Words of other people's prompts: known to the tokenizer, and strewn into captions so that they do no harm.
FILLER_TEXT = """
    background color colour colored grey gray dark bright light very and or with without no not of the one single
    photo picture image drawing painting illustration cartoon icon simple flat style cute beautiful nice pretty
    high quality best detailed masterpiece sharp blurry low worst bad ugly artwork digital art 4k 8k
    shape object scene sky grass field water ocean winter evening star starry grassy sandy snowy
"""
FILLER = FILLER_TEXT.split()


def plural(kind: str) -> str:
    return kind if kind == "fish" else kind + "s"


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def where(background: str, rng: random.Random) -> str:
    """The background as the end of a sentence, its space or comma before it."""
    if background not in COLOURS:
        return " " + rng.choice(WHERE[background])
    colour = article(background)
    forms = (f" on {colour} background", f" on {background}", f" in front of {colour} background")
    return rng.choice((*forms, f", {background} background"))


def caption(scene: Scene, rng: random.Random) -> str:
    """The scene in words; some parts are left out at random."""
    first = scene.things[0]
    if rng.random() < 0.10 and scene.count == 1:
        background = f"{scene.background} background" if scene.background in COLOURS else scene.background
        return f"{_noun(first, rng)}, {background}"  # tags
    if scene.alike:
        body = f"{NUMBER[scene.count]} {_noun(first, rng, many=True)}"
    else:
        body = " and ".join(article(_noun(thing, rng)) for thing in scene.things)
        if scene.count == 2 and rng.random() < 0.4:
            left, right = (article(_noun(thing, rng)) for thing in scene.things)
            to_the_left = rng.random() < 0.5
            body = f"{left} to the left of {right}" if to_the_left else f"{right} to the right of {left}"
        if scene.count == 1 and rng.random() < (0.9 if first.cell != "center" else 0.25):
            body += " " + rng.choice(PLACE[first.cell])
    text = rng.choice(OPENING) + body
    if rng.random() < 0.93:
        text += where(scene.background, rng)
    return text + ("." if rng.random() < 0.1 else "")


def noisy_caption(scene: Scene, rng: random.Random) -> str:
    """The caption; 15 % have one to three filler words or letters without sense among theirs."""
    text = caption(scene, rng)
    if rng.random() >= 0.15:
        return text
    words = text.split(" ")
    for _ in range(rng.randint(1, 3)):
        word = rng.choice(FILLER) if rng.random() < 0.7 else _nonsense(rng)
        if rng.random() < 0.5:
            words.append(", " + word)
        else:
            words.insert(rng.randint(0, len(words)), word)
    return " ".join(words)


def _nonsense(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 7)))


def _noun(thing: Thing, rng: random.Random, *, many: bool = False) -> str:
    words = [rng.choice(SIZE_WORD[thing.size])] if rng.random() < 0.6 else []
    if rng.random() < COLOUR_KEPT:
        words.append(thing.colour)
    words.append(plural(thing.kind) if many else thing.kind)
    return " ".join(word for word in words if word)
