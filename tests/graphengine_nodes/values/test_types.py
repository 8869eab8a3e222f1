"""Pictures with alpha: what the class promises, and what its codec, its views and its files keep."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes import Control, Image, load_controlnet
from graphengine_nodes.nodes import images

from graphengine.values.socket_types import SocketType, socket_type

KIND = socket_type(Image)
assert KIND is not None


def layer(count: int = 1, width: int = 12, height: int = 8) -> Image:
    """Noise with a soft alpha; the numbers are those of 8 bits."""
    draw = torch.Generator().manual_seed(3)
    array = torch.randint(0, 256, (count, height, width, 4), generator=draw) / 255.0
    return Image(array[..., :3].contiguous(), array[..., 3].contiguous())


def kind() -> SocketType[Image]:
    assert KIND is not None
    return KIND


def test_alpha_is_of_the_shape_of_the_pictures() -> None:
    for shape in ((1, 8, 11), (2, 8, 12), (1, 8, 12, 1), (8, 12)):
        with pytest.raises(ValueError, match=r"the alpha of this Image is \[B, H, W\] = \[1, 8, 12\], this is \["):
            Image(torch.zeros(1, 8, 12, 3), torch.zeros(shape))
    assert repr(layer()).endswith("with alpha>")
    assert "alpha" not in repr(layer().opaque())


def test_pictures_with_alpha_have_four_channels_in_every_form() -> None:
    one, two = layer(), layer(2)
    assert np.asarray(one).shape == (8, 12, 4)
    assert np.asarray(two).shape == (2, 8, 12, 4)
    assert one.pil().mode == "RGBA"
    assert np.array_equal(np.asarray(one.pil()) / np.float32(255), one.channels[0].numpy())
    assert np.asarray(one.opaque()).shape == (8, 12, 3)
    over = PIL.Image.alpha_composite(PIL.Image.new("RGBA", (12, 8), "white"), one.pil()).convert("RGB")
    assert np.abs(np.asarray(over).astype(int) - np.asarray(one.opaque())).max() <= 1
    plain = Image(torch.rand(1, 4, 4, 3))
    assert plain.opaque() is plain
    assert plain.channels is plain.pixels


def test_the_bytes_of_pictures_without_alpha_are_those_of_before() -> None:
    """Literals are keyed by these bytes, and values on disks are read by them."""
    assert kind().encode is not None
    assert kind().decode is not None
    plain = Image(torch.arange(96, dtype=torch.float32).reshape(1, 4, 8, 3) / 96)
    data = kind().encode(plain)
    assert hashlib.sha256(data).hexdigest() == "8679ca0e2db657f47a39a54f3ee1bfddc197d0d76ca2bc72d9e7c1426119c34c"
    found = kind().decode(data)
    assert torch.equal(found.pixels, plain.pixels)
    assert found.alpha is None


def test_alpha_comes_back_bit_for_bit() -> None:
    assert kind().encode is not None
    assert kind().decode is not None
    assert kind().size is not None
    given = Image(torch.rand(2, 4, 8, 3), torch.rand(2, 4, 8))
    found = kind().decode(kind().encode(given))
    assert found.alpha is not None
    assert given.alpha is not None
    assert torch.equal(found.pixels, given.pixels)
    assert torch.equal(found.alpha, given.alpha)
    assert kind().size(given) == 4 * 2 * 4 * 8 * 4
    control = socket_type(Control)
    assert control is not None
    assert control.encode is not None
    assert control.decode is not None
    back = control.decode(control.encode(Control(load_controlnet("tiny-canny"), given)))
    assert torch.equal(back.image.alpha, given.alpha)


def test_views_show_alpha() -> None:
    assert kind().view is not None
    (view,) = kind().view(layer())  # type: ignore[misc]
    assert PIL.Image.open(io.BytesIO(view.png or b"")).mode == "RGBA"
    assert PIL.Image.open(io.BytesIO(layer(2)._repr_png_())).size == (24, 8)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_files_keep_alpha(tmp_path: Path, suffix: str) -> None:
    from graphengine_nodes import load_image, save_image

    given = layer()
    save_image(given, tmp_path / f"layer.{suffix}", quality=100)
    found = load_image(tmp_path / f"layer.{suffix}", alpha=True)
    assert torch.equal(found.channels, given.channels)
    assert load_image(tmp_path / f"layer.{suffix}").alpha is None


def test_jpeg_lies_over_white_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clear = Image(torch.zeros(1, 16, 16, 3), torch.zeros(1, 16, 16))
    (file,) = clear.save(tmp_path / "clear.jpg")
    assert "JPEG has no transparency: the picture lies over white; PNG and WebP keep it" in caplog.text
    assert np.asarray(PIL.Image.open(file)).min() > 250


def test_reading_keeps_alpha_only_where_there_is_some(tmp_path: Path) -> None:
    from graphengine_nodes import load_image

    plain = tmp_path / "plain.png"
    PIL.Image.new("RGB", (4, 4), "red").save(plain)
    assert load_image(plain, alpha=True).alpha is None
    deep = (np.random.default_rng(0).random((4, 6, 4)) * 65535).astype(np.uint16)
    import cv2

    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    found = load_image(tmp_path / "deep.png", alpha=True)
    assert np.allclose(found.channels[0].numpy(), deep[..., [2, 1, 0, 3]] / 65535)
    mixed = images.from_pil(PIL.Image.new("RGBA", (2, 2), (1, 2, 3, 0)), PIL.Image.new("RGB", (2, 2)), alpha=True)
    assert mixed.alpha is not None
    assert mixed.alpha[:, 0, 0].tolist() == [0, 1]
