"""Words for prompts, by what they are about. An element is a string, or a list of which `Cfgen` takes one."""

from __future__ import annotations

__all__ = ["hints"]

Words = list[str | list[str]]

hints: dict[str, Words] = {
    "style": [
        ["oil painting", "gouache", "ink drawing", "pencil sketch", "watercolour"],
        ["linocut", "screen print", "etching", "woodblock print"],
        "pixel art",
        "paper collage",
        "stained glass",
        "photograph",
        "clay model",
    ],
    "quality": [
        "finely detailed",
        "sharp focus",
        "clean lines",
        ["carefully composed", "well balanced"],
        "rich texture",
    ],
    "shooting": [
        ["close-up", "portrait framing", "full view", "wide shot", "view from above"],
        ["35 mm lens", "85 mm lens", "macro lens", "fisheye lens"],
        "shallow depth of field",
        "long exposure",
    ],
    "effects": [
        ["soft light", "hard light", "backlight", "candlelight", "golden hour"],
        "morning mist",
        "light rays",
        "film grain",
        "reflections",
    ],
    "style_modifiers": [
        ["minimal", "ornate", "geometric", "flowing"],
        ["art nouveau", "bauhaus", "baroque", "ukiyo-e"],
        "flat colours",
        "thick brush strokes",
    ],
    "vibe": [
        ["calm", "cheerful", "dreamy", "solemn", "mysterious", "lonely", "festive"],
        ["cosy", "grand", "eerie"],
    ],
    "colors": [
        ["red", "orange", "yellow", "green", "blue", "violet", "black", "white"],
        ["pastel colours", "muted colours", "vivid colours", "earth tones", "monochrome"],
    ],
    "author_style": [
        ["in the manner of Vermeer", "in the manner of Turner", "in the manner of Hokusai"],
        ["in the manner of Monet", "in the manner of Klee", "in the manner of Hilma af Klint"],
    ],
}
