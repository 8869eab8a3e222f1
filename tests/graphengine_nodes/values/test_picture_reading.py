"""Pictures of any number of bits, in any colours, are read as they are meant, or refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import graphengine_nodes as std
import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import pytest

from graphengine import FileError
from tests.graphengine_nodes import cases

DEEP = np.random.default_rng(0).integers(0, 65536, (9, 7, 3), dtype=np.uint16)
HALF = np.full((9, 7, 1), 32768, np.uint16)


def pixels(file: Path) -> Any:
    return std.load_image(file).pixels[0].numpy()


def tiff(
    array: Any,
    photometric: int = 2,
    format: int = 1,
    extra: int | None = None,
    order: str = "<",
    orientation: int = 1,
    profile: bytes = b"",
) -> bytes:
    """A TIFF file without compression, written by hand (TIFF 6.0): no library writes all of these."""
    height, width = array.shape[:2]
    channels = 1 if array.ndim == 2 else array.shape[2]
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    short, long = "H", "I"
    tags: dict[int, tuple[str, list[int] | bytes]] = {
        256: (long, [width]), 257: (long, [height]), 258: (short, [array.dtype.itemsize * 8] * channels),
        259: (short, [1]), 262: (short, [photometric]), 273: (long, [0]), 274: (short, [orientation]),
        277: (short, [channels]), 278: (long, [height]), 279: (long, [len(data)]), 339: (short, [format] * channels),
    }  # fmt: skip
    if extra is not None:
        tags[338] = short, [extra]
    if profile:
        tags[34675] = "B", profile
    place = 8 + 2 + 12 * len(tags) + 4
    blobs, entries = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        raw = bytes(values) if kind == "B" else struct.pack(f"{order}{len(values)}{kind}", *values)
        head = struct.pack(f"{order}HHI", tag, {"B": 7, "H": 3, "I": 4}[kind], len(values))
        if tag == 273:
            entries += head + b"PLAC"
        elif len(raw) <= 4:
            entries += head + raw.ljust(4, b"\0")
        else:
            entries += head + struct.pack(f"{order}I", place + len(blobs))
            blobs += raw
    entries = entries.replace(b"PLAC", struct.pack(f"{order}I", place + len(blobs)))
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return start + entries + struct.pack(f"{order}I", 0) + blobs + data


def saved(content: bytes, file: Path) -> Path:
    file.write_bytes(content)
    return file


# --- bits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_colour_are_kept(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"deep.{suffix}"
    cv2.imwrite(str(file), DEEP[..., ::-1])
    assert np.array_equal(pixels(file), DEEP / np.float32(65535))
    cv2.imwrite(str(file), np.concatenate([DEEP[..., ::-1], HALF], -1))
    assert np.allclose(pixels(file), (DEEP / 65535 * 32768 + 32767) / 65535, atol=1e-6)  # half over white
    mask = std.load_mask(file, from_alpha=True).values[0].numpy()
    assert np.allclose(mask, 32767 / 65535)


def test_ppms_have_16_bits_or_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "deep.ppm"
    cv2.imwrite(str(file), DEEP[..., ::-1])
    assert np.array_equal(pixels(file), DEEP / np.float32(65535))
    file.write_bytes(b"P6 2 2 1023\n" + np.full((2, 2, 3), 1023, ">u2").tobytes())
    with pytest.raises(FileError, match=r"deep\.ppm has a white of 1023; save it with 8 or 16 bits"):
        pixels(file)
    file.write_bytes(b"P6 2 2 255\n" + bytes(12))
    assert not pixels(file).any()


@pytest.mark.parametrize("order", "<>")
def test_tiffs_of_integers_keep_their_range(tmp_path: Path, order: str) -> None:
    file, grey = tmp_path / "deep.tif", DEEP[..., 0] / np.float32(65535)
    assert np.array_equal(pixels(saved(tiff(DEEP, order=order), file)), DEEP / np.float32(65535))
    assert np.array_equal(pixels(saved(tiff(DEEP[..., 0], 1, order=order), file))[..., 1], grey)
    assert np.allclose(pixels(saved(tiff(DEEP[..., 0], 0, order=order), file))[..., 1], 1 - grey)  # white is 0
    assert np.allclose(std.load_mask(file).values[0].numpy(), 1 - grey, atol=1e-6)
    times_alpha = np.concatenate([(DEEP.astype(np.uint32) * 32768 // 65535).astype(np.uint16), HALF], -1)
    read = pixels(saved(tiff(times_alpha, extra=1, order=order), file))
    assert np.allclose(read, (DEEP / 65535 * 32768 + 32767) / 65535, atol=4e-5)


def test_tiffs_of_floats_keep_their_range(tmp_path: Path) -> None:
    for dtype in (np.float32, np.float64):
        floats = (DEEP / 65535).astype(dtype)
        assert np.array_equal(pixels(saved(tiff(floats, format=3), tmp_path / "f.tif")), floats.astype(np.float32))
        read = pixels(saved(tiff(floats[..., 0], 1, format=3), tmp_path / "grey.tif"))
        assert np.array_equal(read[..., 2], floats[..., 0].astype(np.float32))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_pictures_are_rotated_as_their_exif_says(tmp_path: Path, orientation: int) -> None:
    shallow = PIL.Image.fromarray((DEEP // 257).astype(np.uint8))
    exif = PIL.Image.Exif()
    exif[274] = orientation
    shallow.save(tmp_path / "shallow.png", exif=exif)
    expected = pixels(tmp_path / "shallow.png")
    for array, format in ((DEEP, 1), ((DEEP / 65535).astype(np.float32), 3)):
        read = pixels(saved(tiff(array, format=format, orientation=orientation), tmp_path / "deep.tif"))
        assert np.allclose(read, expected, atol=1 / 255)
        read = pixels(saved(tiff(array[..., 1], 1, format, orientation=orientation), tmp_path / "grey.tif"))
        assert np.allclose(read, expected[..., 1:2], atol=1 / 255)
    cv2.imwrite(str(tmp_path / "plain.png"), DEEP[..., ::-1])
    deep = (tmp_path / "plain.png").read_bytes()
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    read = pixels(saved(deep[:33] + chunk + deep[33:], tmp_path / "deep.png"))
    assert np.allclose(read, expected, atol=1 / 255)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (tiff((DEEP[..., 0] // 2).astype(np.int16), 1, 2), "holds 16-bit signed integers, whose range is not known"),
        (tiff(DEEP[..., 0].astype(np.uint32) * 2, 1), "holds 32-bit integers from 0 to .*, of which white"),
        (tiff(DEEP[..., 0].astype(np.int32) // 257, 1, 2), "holds 32-bit integers from 0 to 25., of which white"),
        (tiff((DEEP / 65535).astype(np.float16), 2, 3), "holds 16-bit floats, whose range is not known"),
        (tiff((DEEP / 257).astype(np.float32), 2, 3), r"holds floats from .* to 25\d.*; a picture's go from 0 to 1"),
        (tiff((DEEP / 65535 - 0.5).astype(np.float32), 2, 3), "holds floats from -0.5"),
        (tiff(np.full((4, 4), np.nan, np.float32), 1, 3), "holds floats from nan to nan"),
        (tiff(np.concatenate([DEEP, DEEP[..., :1]], -1), 5), "in colours that are neither grey nor RGB"),
        (tiff(DEEP)[:-40], "deep.tif is damaged, cut short, or packed in a way that is not read; save it as PNG"),
    ],
)
@pytest.mark.filterwarnings("ignore:All-NaN")
def test_numbers_without_a_known_white_are_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = saved(content, tmp_path / "deep.tif")
    for load in (std.load_image, std.load_mask):
        with pytest.raises(FileError, match=sentence):
            load(file)


def test_a_deep_tiff_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(FileError, match="would unpack to more than 20 pixels"):
        pixels(saved(tiff((DEEP / 65535).astype(np.float32), format=3), tmp_path / "big.tif"))


# --- colours ----------------------------------------------------------------------------------------------------------


def profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A colour profile written by hand (ICC.1:2001-04)."""
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 79, **tags}
    table, blobs = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        value = value.ljust(-(-len(value) // 4) * 4, b"\0")
        table += struct.pack(">4sII", name, 128 + 4 + 12 * len(tags) + len(blobs), len(value))
        blobs += value
    size = 128 + len(table) + len(blobs)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I4sI4s4s4s", size, b"test", 0x02400000, kind, space, connection)
    head = head.ljust(36, b"\0") + b"acsp"
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + blobs


def xyz(*numbers: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(number * 65536) for number in numbers))


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


WIDE = profile(b"RGB ", b"XYZ ", {
    b"wtpt": xyz(0.9642, 1, 0.8249), b"rXYZ": xyz(0.60974, 0.31111, 0.01947), b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
    b"bXYZ": xyz(0.14919, 0.06322, 0.74457), b"rTRC": gamma(2.2), b"gTRC": gamma(2.2), b"bTRC": gamma(2.2),
})  # fmt: skip
"""The primaries and the curve of Adobe RGB (1998)."""
GREY = profile(b"GRAY", b"XYZ ", {b"wtpt": xyz(0.9642, 1, 0.8249), b"kTRC": gamma(1.8)})


def press() -> bytes:
    """A profile of a printing press: CMYK to Lab by a table of 2 x 2 x 2 x 2 colours."""
    straight = bytes(range(256))
    colours = b""
    for n in range(16):
        cyan, magenta, yellow, black = (n >> 3 & 1, n >> 2 & 1, n >> 1 & 1, n & 1)
        light = 255 - 70 * cyan - 80 * magenta - 20 * yellow
        colours += bytes([0 if black else light, 128 - 40 * cyan + 60 * magenta, 128 - 40 * cyan + 80 * yellow])
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + straight * 4 + colours + straight * 3
    return profile(b"CMYK", b"Lab ", {b"wtpt": xyz(0.9642, 1, 0.8249), b"A2B0": table})


def by_littlecms(picture: PIL.Image.Image, icc: bytes) -> Any:
    srgb = PIL.ImageCms.createProfile("sRGB")
    found = PIL.ImageCms.profileToProfile(picture, io.BytesIO(icc), srgb, outputMode="RGB")
    assert found is not None
    return np.asarray(found).astype(np.float32) / 255


@pytest.mark.parametrize(("mode", "icc", "suffix"), [
    ("RGB", WIDE, "png"), ("RGB", WIDE, "jpg"), ("RGB", WIDE, "tif"), ("RGB", WIDE, "webp"), ("CMYK", press(), "tif"),
    ("L", GREY, "png"),
])  # fmt: skip
def test_profiles_are_honoured(tmp_path: Path, mode: str, icc: bytes, suffix: str) -> None:
    picture = cases.picture().convert(mode)
    options = {"quality": 100, "lossless": True} if suffix == "webp" else {}
    file = tmp_path / f"profiled.{suffix}"
    picture.save(file, icc_profile=icc, **options)
    with PIL.Image.open(file) as stored:
        expected, plain = by_littlecms(stored, icc), np.asarray(stored.convert("RGB")).astype(np.float32) / 255
    assert np.array_equal(pixels(file), expected)
    assert abs(expected - plain).max() > 0.05


def test_transparent_pictures_with_a_profile(tmp_path: Path) -> None:
    picture = cases.picture()
    picture.putalpha(PIL.Image.linear_gradient("L").resize(picture.size))
    picture.save(tmp_path / "layer.png", icc_profile=WIDE)
    turned = PIL.Image.fromarray((by_littlecms(picture.convert("RGB"), WIDE) * 255).round().astype(np.uint8))
    turned.putalpha(picture.getchannel("A"))
    turned.save(tmp_path / "expected.png")
    assert np.array_equal(pixels(tmp_path / "layer.png"), pixels(tmp_path / "expected.png"))


def test_pictures_in_srgb_keep_their_bits(tmp_path: Path) -> None:
    icc = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    cases.picture().save(tmp_path / "srgb.png", icc_profile=icc)
    assert np.array_equal(pixels(tmp_path / "srgb.png"), np.asarray(cases.picture()).astype(np.float32) / 255)
    read = pixels(saved(tiff(DEEP, profile=icc), tmp_path / "deep.tif"))
    assert np.array_equal(read, DEEP / np.float32(65535))


def test_deep_pictures_by_their_profile_are_what_littlecms_makes_of_8_bits(tmp_path: Path) -> None:
    shallow = np.asarray(cases.picture())
    for icc, array in ((WIDE, shallow), (GREY, shallow[..., 0])):
        expected = by_littlecms(PIL.Image.fromarray(array), icc)
        deep = array.astype(np.uint16) * 257
        read = pixels(saved(tiff(deep, 1 if array.ndim == 2 else 2, profile=icc), tmp_path / "deep.tif"))
        assert abs(read - expected).max() <= 1.5 / 255
    cv2.imwrite(str(tmp_path / "deep.png"), (shallow.astype(np.uint16) * 257)[..., ::-1])
    ramp = np.repeat(np.arange(0, 65536, 16, dtype=np.uint16)[None, :, None], 3, axis=2)
    read = pixels(saved(tiff(ramp, profile=WIDE), tmp_path / "ramp.tif"))
    assert len(np.unique(read)) > 4000  # not in 8 bits


def test_profiles_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cases.picture().save(tmp_path / "broken.png", icc_profile=b"no profile")
    assert np.array_equal(pixels(tmp_path / "broken.png"), np.asarray(cases.picture()).astype(np.float32) / 255)
    assert "its colour profile cannot be used" in caplog.text
    tables = profile(b"RGB ", b"Lab ", {b"A2B0": b"mft1"})
    with pytest.raises(FileError, match="more than 8 bits and a colour profile that is not of curves"):
        pixels(saved(tiff(DEEP, profile=tables), tmp_path / "deep.tif"))


# --- keys -------------------------------------------------------------------------------------------------------------


def test_only_pictures_that_were_read_otherwise_before_have_other_keys(tmp_path: Path) -> None:
    """Values of them that a cache holds from before are not found; those of all others are."""
    plain, wide, broken = (tmp_path / f"{name}.png" for name in ("plain", "wide", "broken"))
    cases.picture().save(plain)
    cases.picture().save(wide, icc_profile=WIDE)
    cv2.imwrite(str(tmp_path / "deep.png"), DEEP)
    saved(tiff(DEEP), tmp_path / "deep.tif")
    cases.picture().save(tmp_path / "plain.tif")
    broken.write_bytes(b"none")
    for load in (std.load_image, std.load_mask):
        mark: Any = load.fingerprint_fn
        assert [mark(file) for file in (plain, tmp_path / "plain.tif", broken, tmp_path / "none.png")] == [None] * 4
        assert None not in [mark(file) for file in (wide, tmp_path / "deep.png", tmp_path / "deep.tif")]
