"""Pictures are read from files of every format and mode, resized, cropped, padded and saved, or refused."""

from __future__ import annotations

import json
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import graphengine_nodes as std
import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.PngImagePlugin
import pytest
import torch
from graphengine_nodes.nodes import images

from graphengine import FileError
from graphengine.provenance.describe import CHUNK
from graphengine.results import record
from tests.graphengine_nodes import cases


def saved(picture: PIL.Image.Image, file: Path, **options: object) -> Path:
    picture.save(file, **options)  # type: ignore[arg-type]
    return file


def test_reading_many_at_once_leaves_no_filter_of_warnings(tmp_path: Path) -> None:
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text(CHUNK, json.dumps({"format": 1, "workflow": {}, "inputs": {}, "output": "", "files": []}))
    file = saved(cases.picture(), tmp_path / "a.png", pnginfo=text)
    before, interval = list(warnings.filters), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda read: read(file), [images.open_picture, record.read] * 500))
    finally:
        sys.setswitchinterval(interval)
    assert list(warnings.filters) == before


def test_modes(tmp_path: Path) -> None:
    plain = cases.picture()
    expected = np.asarray(plain).astype(np.float32) / 255.0
    read = std.load_image(saved(plain, tmp_path / "rgb.png"))
    assert np.array_equal(read.pixels.numpy()[0], expected)
    assert read.size == (128, 128)
    palette = std.load_image(saved(plain.quantize(16), tmp_path / "palette.png"))
    assert abs(palette.pixels.numpy()[0] - expected).mean() < 0.02
    cmyk = std.load_image(saved(plain.convert("CMYK"), tmp_path / "cmyk.jpg", quality=98))
    assert abs(cmyk.pixels.numpy()[0] - expected).mean() < 0.02
    grey = std.load_image(saved(plain.convert("L"), tmp_path / "grey.png"))
    assert torch.equal(grey.pixels[..., 0], grey.pixels[..., 2])
    one = std.load_image(saved(plain.resize((1, 1)), tmp_path / "one.png"))
    assert one.pixels.shape == (1, 1, 1, 3)


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    read = std.load_image(saved(PIL.Image.fromarray(ramp), tmp_path / "deep.png"))
    assert np.allclose(read.pixels.numpy()[0, 0, :, 0], np.linspace(0, 1, 256), atol=2e-5)


def test_what_is_transparent_lies_over_white(tmp_path: Path) -> None:
    clear = PIL.Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    read = std.load_image(saved(clear, tmp_path / "clear.png")).pixels[0]
    assert read[0, 0].tolist() == [1, 0, 0]
    assert read[1, 1].tolist() == [1, 1, 1]
    mask = std.load_mask(tmp_path / "clear.png", from_alpha=True).values[0]
    assert mask[0, 0] == 0
    assert mask[1, 1] == 1
    with pytest.raises(FileError, match="has no transparency; make the mask from its brightness"):
        std.load_mask(saved(cases.picture(), tmp_path / "plain.png"), from_alpha=True)


def test_rotation_from_exif_is_applied(tmp_path: Path) -> None:
    wide = PIL.Image.new("RGB", (20, 10), "blue")
    wide.paste("red", (0, 0, 5, 10))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to the right to see it upright
    read = std.load_image(saved(wide, tmp_path / "turned.jpg", exif=exif, quality=98))
    assert read.size == (10, 20)
    assert read.pixels[0, 1, 5, 0] > 0.8  # the red end is at the top
    assert read.pixels[0, 18, 5, 2] > 0.8


def test_bad_files(tmp_path: Path) -> None:
    whole = saved(cases.picture(), tmp_path / "whole.png").read_bytes()
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=r"cut\.png is damaged or cut short"):
        std.load_image(cut)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(FileError, match=r"text\.png is no picture that can be read"):
        std.load_image(text)
    (tmp_path / "empty.png").touch()
    with pytest.raises(FileError, match=r"empty\.png is no picture"):
        std.load_image(tmp_path / "empty.png")
    with pytest.raises(FileError, match="there is no file"):
        std.load_image(tmp_path / "missing.png")
    with pytest.raises(FileError, match="is a folder; give one of the pictures in it"):
        std.load_image(tmp_path)


def test_a_decompression_bomb(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (10_000, 40_000):  # PIL only warns of the first
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        bomb = tmp_path / "bomb.png"
        bomb.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
        with pytest.raises(FileError, match=r"bomb\.png would unpack to more than [\d,]+ pixels"):
            std.load_image(bomb)
        with pytest.raises(FileError, match=r"bomb\.png would unpack to more pixels"):
            record.read(bomb)


def test_sizes() -> None:
    picture = images.from_pil(cases.picture())
    small = std.resize_image(picture, 64, 32)
    assert small.size == (64, 32)
    expected = cases.picture().resize((64, 32), PIL.Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(small), np.asarray(expected))
    middle = std.crop_image(picture, 60, 40)
    assert torch.equal(middle.pixels, picture.pixels[:, 44:84, 34:94])
    corner = std.crop_image(picture, 10, 10, left=118, top=0)
    assert torch.equal(corner.pixels, picture.pixels[:, :10, 118:])
    with pytest.raises(ValueError, match="a piece of 10 x 10 at 120, 0 does not lie in 128 x 128 pixels"):
        std.crop_image(picture, 10, 10, left=120, top=0)
    odd = std.crop_image(picture, 61, 33)
    padded = std.pad_image(odd, 8)
    assert padded.size == (64, 40)
    assert torch.equal(padded.pixels[:, :33, :61], odd.pixels)
    assert torch.equal(padded.pixels[:, 39, 63], odd.pixels[:, 32, 60])
    assert std.pad_image(odd, 8, "white").pixels[0, 39, 63].tolist() == [1, 1, 1]
    assert std.pad_image(picture, 8).pixels is picture.pixels


def test_masks_and_composites() -> None:
    white = std.Image(torch.ones(1, 4, 8, 3))
    black = std.Image(torch.zeros(1, 4, 8, 3))
    mask = std.mask_rectangle(8, 4, 0.5, 0.0, 1.0, 1.0)
    mixed = std.composite(black, white, mask)
    assert mixed.pixels[0, :, 4:].min() == 1
    assert mixed.pixels[0, :, :4].max() == 0
    assert torch.equal(std.invert_mask(mask).values, 1 - mask.values)
    assert torch.allclose(std.mask_from_image(mixed).values, mask.values)
    grey = std.Image(torch.full((1, 2, 2, 3), 0.4))
    assert torch.allclose(std.mask_from_image(grey).values, torch.tensor(0.4))
    assert std.mask_from_image(grey, threshold=0.5).values.max() == 0
    with pytest.raises(ValueError, match="sizes differ"):
        std.composite(black, white, std.mask_rectangle(4, 4))


def test_canny_finds_edges_and_only_those() -> None:
    edges = std.canny(images.from_pil(cases.picture())).pixels[0, ..., 0]
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    assert edges[75, 28:33].max() == 1  # the left side of the yellow square
    assert edges[70:80, 45:65].max() == 0  # inside it
    assert std.canny(std.Image(torch.full((2, 16, 16, 3), 0.5))).pixels.max() == 0


def odd_pictures(folder: Path) -> dict[str, Path]:
    """The same picture in kinds that cameras, scanners and painting programs write."""
    plain = cases.picture()
    grey = plain.convert("L")
    deep = np.asarray(grey).astype(np.uint16) * 257
    rotated = PIL.Image.Exif()
    rotated[0x0112] = 3  # upside down
    clear = plain.quantize(32)
    clear.info["transparency"] = 255  # a colour that nothing has
    return {
        "RGBA": saved(plain.convert("RGBA"), folder / "rgba.png"),
        "P": saved(plain.quantize(32), folder / "palette.png"),
        "P with transparency": saved(clear, folder / "clear.png"),
        "GIF": saved(plain, folder / "moving.gif", save_all=True, append_images=[plain.convert("L").convert("RGB")]),
        "CMYK": saved(plain.convert("CMYK"), folder / "cmyk.tiff"),
        "YCbCr": saved(plain.convert("YCbCr"), folder / "ycbcr.tiff"),
        "BMP": saved(plain, folder / "plain.bmp"),
        "turned": saved(plain.rotate(180), folder / "turned.webp", exif=rotated, lossless=True),
        "L": saved(grey, folder / "grey.png"),
        "LA": saved(grey.convert("LA"), folder / "grey_alpha.png"),
        "I;16": saved(PIL.Image.fromarray(deep), folder / "deep.png"),
        "I;16 TIFF": saved(PIL.Image.fromarray(deep), folder / "deep.tiff"),
        "F": saved(PIL.Image.fromarray(np.asarray(grey).astype(np.float32) / 255), folder / "float.tiff"),
    }


GREY = {"L", "LA", "I;16", "I;16 TIFF", "F"}


def test_every_kind_of_picture_is_read_as_picture_and_as_mask(tmp_path: Path) -> None:
    coloured = np.asarray(cases.picture()).astype(np.float32) / 255
    grey = np.asarray(cases.picture().convert("L")).astype(np.float32) / 255
    for kind, file in odd_pictures(tmp_path).items():
        image = std.load_image(file)
        expected = grey[..., None] if kind in GREY else coloured
        assert image.pixels.dtype == torch.float32, kind
        assert abs(image.pixels.numpy()[0] - expected).mean() < 0.03, kind
        mask = std.load_mask(file)
        assert mask.size == (128, 128), kind
        assert abs(mask.values.numpy()[0] - grey).mean() < 0.03, kind


def test_one_bit_and_one_pixel(tmp_path: Path) -> None:
    bits = cases.mask().convert("1")
    assert np.array_equal(std.load_mask(saved(bits, tmp_path / "bits.png")).values[0].numpy(), np.asarray(bits))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        one = saved(PIL.Image.new(mode, (1, 1)), tmp_path / "one.png")
        assert std.load_image(one).size == std.load_mask(one).size == (1, 1)
        assert std.pad_image(std.load_image(one), 8).size == (8, 8)
        assert std.resize_image(std.load_image(one), 3, 2).size == (3, 2)


def test_transparency_of_every_kind_is_a_mask(tmp_path: Path) -> None:
    alpha = PIL.ImageOps.invert(cases.mask())
    whole = cases.picture().convert("RGBA")
    whole.putalpha(alpha)
    palette = cases.mask().convert("P")
    files = [
        saved(whole, tmp_path / "rgba.png"),
        saved(whole.convert("LA"), tmp_path / "la.png"),
        saved(palette, tmp_path / "palette.png", transparency=255),
        saved(whole, tmp_path / "rgba.webp", lossless=True),
    ]
    for file in files:
        found = std.load_mask(file, from_alpha=True).values[0].numpy()
        assert np.array_equal(found, np.asarray(cases.mask()).astype(np.float32) / 255), file.name


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tiff", "bmp"])
def test_cut_short_at_any_place(tmp_path: Path, suffix: str) -> None:
    whole = saved(cases.picture(), tmp_path / f"whole.{suffix}").read_bytes()
    for part in (0.01, 0.3, 0.7, 0.95):
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(whole[: int(len(whole) * part)])
        for load in (std.load_image, std.load_mask):
            with pytest.raises(FileError, match=r"cut\.\w+ is (damaged or cut short|no picture)"):
                load(cut)


def layers(width: int = 21, height: int = 13, count: int = 1) -> std.Image:
    """Noise with a soft alpha."""
    draw = torch.Generator().manual_seed(width)
    array = torch.rand(count, height, width, 4, generator=draw)
    return std.Image(array[..., :3].contiguous(), array[..., 3].contiguous())


def test_alpha_goes_through_every_change_of_geometry() -> None:
    given = layers()
    assert given.alpha is not None
    cropped = std.crop_image(given, 5, 6, 2, 3)
    assert torch.equal(cropped.channels, given.channels[:, 3:9, 2:7])
    edge, black = std.pad_image(given, 8), std.pad_image(given, 8, "black")
    assert edge.alpha is not None
    assert black.alpha is not None
    assert torch.equal(edge.alpha[:, :13, :21], given.alpha)
    assert torch.equal(edge.alpha[:, 15, :21], given.alpha[:, 12])
    assert black.alpha[0, 15, 23] == 1
    resized = std.resize_image(given, 10, 20)
    expected = given.pil().resize((10, 20), PIL.Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(resized), np.asarray(expected))
    assert std.upscale_image(given, 2.0).alpha is not None
    opaque = std.Image(given.pixels, torch.ones_like(given.alpha))
    assert torch.equal(std.resize_image(opaque, 8, 8).pixels, std.resize_image(std.Image(given.pixels), 8, 8).pixels)


def test_colours_under_transparent_parts_do_not_bleed_when_resized() -> None:
    pixels, alpha = torch.zeros(1, 16, 16, 3), torch.zeros(1, 16, 16)
    pixels[..., 0] = 1  # red where nothing is seen
    pixels[:, :, :8], alpha[:, :, :8] = torch.tensor([0.0, 0.0, 1.0]), 1
    small = std.resize_image(std.Image(pixels, alpha), 5, 5, "bilinear")
    seen = small.channels[0][small.channels[0][..., 3] > 0.05]
    assert seen[:, 0].max() < 0.03
    assert seen[:, 2].min() > 0.97


def test_the_key_of_load_image_without_alpha_is_that_of_before() -> None:
    assert std.load_image.sockets["alpha"].added
    assert std.load_image.sockets["alpha"].default is False
