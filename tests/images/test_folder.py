"""Folders of image files: classes, modes, sizes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cmpolicy.errors import InputError
from cmpolicy.images.folder import read_folder, resized


@pytest.fixture
def save(tmp_path):
    """save(name, mode="RGB", size=(6, 4), seed=0): write an image of noise, return its pixels."""

    def write(name, mode="RGB", size=(6, 4), seed=0, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(path, **options)
        return pixels

    return write


def test_each_subfolder_is_a_class_in_the_order_of_names(tmp_path, save):
    first, second = save("cat/b.png", seed=1), save("cat/z/a.PNG", seed=2)
    expected = [save("ant/c.bmp", seed=3), first, second]
    for name in ("ant/labels.csv", "README.md", "ant/.1.png", ".git/x.png", "__MACOSX/a/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    pictures = read_folder(tmp_path)
    assert pictures.class_names == ["ant", "cat"]
    assert pictures.labels.tolist() == [0, 1, 1]
    assert pictures.labels.dtype == np.int64
    np.testing.assert_array_equal(pictures.images.transpose(0, 2, 3, 1), expected)


def test_without_subfolders_there_are_no_labels(tmp_path, save):
    grey = [save("1.png", "L", seed=1), save("2.png", "L", seed=2)]
    images, labels, names = read_folder(tmp_path)
    assert (labels, names) == (None, [])
    np.testing.assert_array_equal(images[:, 0], grey)
    coloured = save("3.png")
    images = read_folder(tmp_path).images
    np.testing.assert_array_equal(images[0], np.stack([grey[0]] * 3))
    np.testing.assert_array_equal(images[2], coloured.transpose(2, 0, 1))


def test_transparency_becomes_white(tmp_path, save):
    pixels = save("1.png", "RGBA")
    alpha = pixels[..., 3:] / 255.0
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    images = read_folder(tmp_path).images
    np.testing.assert_allclose(images[0].transpose(1, 2, 0), expected, atol=1)
    Image.new("LA", (6, 4), (10, 0)).save(tmp_path / "1.png")
    np.testing.assert_array_equal(read_folder(tmp_path).images, np.full((1, 1, 4, 6), 255))


def test_modes_of_other_programs(tmp_path):
    picture = Image.new("RGB", (6, 4), (200, 30, 10))
    picture.paste((10, 60, 90), (0, 0, 3, 4))
    palette = picture.quantize(2)
    palette.save(tmp_path / "1.png")
    palette.save(tmp_path / "2.gif", transparency=palette.getpixel((0, 0)))
    picture.convert("CMYK").save(tmp_path / "3.jpg", quality=100, subsampling=0)
    picture.convert("1").save(tmp_path / "4.png")
    images = read_folder(tmp_path).images
    exact = np.asarray(picture).transpose(2, 0, 1)
    np.testing.assert_array_equal(images[0], exact)
    np.testing.assert_array_equal(images[1, :, :, :3], np.full((3, 4, 3), 255))
    np.testing.assert_array_equal(images[1, :, :, 3:], exact[:, :, 3:])
    np.testing.assert_allclose(images[2], exact, atol=12)
    assert set(np.unique(images[3])) <= {0, 255}


def test_a_photograph_is_turned_upright(tmp_path, save):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    pixels = save("1.png", "L", exif=exif)
    np.testing.assert_array_equal(read_folder(tmp_path).images[0, 0], np.rot90(pixels, -1))


def test_an_image_of_another_size_is_named_with_both_sizes(tmp_path, save):
    save("a/1.png")
    save("b/3.png", size=(5, 7))
    with pytest.raises(InputError) as caught:
        read_folder(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/b/3.png is 5 × 7 pixels, expected 6 × 4 like {tmp_path}/a/1.png; "
        "give size= to crop and resize all images"
    )
    assert read_folder(tmp_path, size=4).images.shape == (2, 3, 4, 4)


def test_size_crops_the_centre(tmp_path):
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 2:6] = 200
    Image.fromarray(pixels).save(tmp_path / "1.png")
    for size in (4, 2, 8):
        centre = np.full((1, 1, size, size), 200)
        np.testing.assert_array_equal(read_folder(tmp_path, size).images, centre)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_arrays_are_resized_as_files_are(tmp_path, save, mode):
    pixels = save("1.png", mode, size=(9, 6))
    images = pixels.reshape(1, 6, 9, len(mode)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(resized(images, 5), read_folder(tmp_path, 5).images)
    square = np.ascontiguousarray(images[:, :, :, :6])
    assert resized(square, 6) is square


def test_a_folder_without_images_or_with_a_mixture_says_why(tmp_path, save):
    with pytest.raises(InputError, match=r"no folder at .*nowhere, expected one with images"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no image, expected \.bmp, \.gif"):
        read_folder(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(InputError, match="dog holds no image, expected images of this class"):
        read_folder(tmp_path)
    save("1.png")
    with pytest.raises(InputError, match=r"holds images \(1.png\) next to subfolders \(dog\)"):
        read_folder(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_that_is_cut_short_is_named(tmp_path, save, suffix):
    save(f"1.{suffix}", size=(60, 40))
    path = tmp_path / f"1.{suffix}"
    whole = path.read_bytes()
    for end in (0, 10, len(whole) // 2):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=rf"1\.{suffix} cannot be read as an image"):
            read_folder(tmp_path)


def test_other_formats_and_sixteen_bits_are_refused(tmp_path):
    (tmp_path / "1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n")
    with pytest.raises(InputError, match=r"1\.png cannot be read as an image"):
        read_folder(tmp_path)
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "1.png")
    said = r"1\.png has more than 8 bits per channel \(mode I(;16)?\)"
    with pytest.raises(InputError, match=said):
        read_folder(tmp_path)
