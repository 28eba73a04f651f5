import importlib.util
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from experiments import data
from experiments.data import Image, load_images, sample_patches, split_images, whole_images

SHARED = Path(__file__).parents[2] / "shared" / "data"


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path, **options)


def gray(seed, height=4, width=6):
    return np.random.default_rng(seed).integers(256, size=(height, width), dtype=np.uint8)


def load_one(path):
    (image,) = load_images(path.parent)
    assert image.pixels.dtype == np.float32
    return image.pixels


@pytest.fixture
def folder(tmp_path):
    """Two images in subfolders, among files that are none."""
    root = tmp_path / "images"
    save(root / "b" / "two.PNG", gray(2))
    save(root / "a.pgm", gray(1))
    save(root / ".cache" / "hidden.png", gray(3))
    (root / "notes.txt").write_text("no image")
    return root


@pytest.fixture
def archive(folder):
    path = folder.with_name("images.zip")
    with zipfile.ZipFile(path, "w") as file:
        for member in folder.rglob("*"):
            file.write(member, member.relative_to(folder))
        file.writestr("__MACOSX/._a.png", b"resource fork")
    return path


# --- loading ---


def test_a_folder_is_read_with_its_subfolders_in_sorted_order(folder):
    images = load_images(folder)
    assert [image.name for image in images] == ["a.pgm", "b/two.PNG"]
    for image, seed in zip(images, (1, 2), strict=True):
        assert image.pixels.dtype == np.float32
        np.testing.assert_array_equal(image.pixels, gray(seed).astype(np.float32) / 255)


def test_a_zip_gives_what_its_folder_gives_and_is_not_unpacked(folder, archive):
    before = sorted(folder.parent.iterdir())
    images = load_images(archive)
    assert sorted(folder.parent.iterdir()) == before
    for found, expected in zip(images, load_images(folder), strict=True):
        assert found.name == expected.name
        np.testing.assert_array_equal(found.pixels, expected.pixels)


def test_bundled_images_are_gray_photographs_in_range():
    images = load_images(None)
    assert [image.name for image in images] == sorted(data.BUNDLED_IMAGES)
    for _, pixels in images:
        assert pixels.ndim == 2
        assert pixels.dtype == np.float32
        assert 0 <= pixels.min() < pixels.max() <= 1
        assert min(pixels.shape) >= 300


def test_nothing_is_shown_where_stderr_is_no_terminal(folder, capsys):
    load_images(folder, progress=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the shared images are not at {SHARED}")
def test_shared_images():
    images = load_images(SHARED / "set12")
    assert len(images) == 12
    assert {image.pixels.shape for image in images} == {(256, 256), (512, 512)}
    with zipfile.ZipFile(SHARED / "cifar10" / "test.zip") as file:
        names = file.namelist()[:3]
        pixels = [data._to_gray(PIL.Image.open(io.BytesIO(file.read(name)))) for name in names]
    images = [Image(name, array) for name, array in zip(names, pixels, strict=True)]
    assert whole_images(images, 32).shape == (3, 1024)


# --- pixel formats ---


def test_colour_becomes_gray_by_the_rec_601_luma(tmp_path):
    colour = np.random.default_rng(0).integers(256, size=(5, 7, 3), dtype=np.uint8)
    save(tmp_path / "a.png", colour)
    expected = colour.astype(np.float64) @ [0.299, 0.587, 0.114] / 255
    np.testing.assert_allclose(load_one(tmp_path / "a.png"), expected, atol=1e-6)
    pillow = np.asarray(PIL.Image.fromarray(colour).convert("L"), np.float32) / 255
    np.testing.assert_allclose(load_one(tmp_path / "a.png"), pillow, atol=0.51 / 255)


@pytest.mark.parametrize("suffix", ["bmp", "webp", "tif"])
def test_gray_stored_as_colour_stays_gray(tmp_path, suffix):
    save(
        tmp_path / f"a.{suffix}",
        np.repeat(gray(0)[..., None], 3, axis=-1),
        **({"lossless": True} if suffix == "webp" else {}),
    )
    pixels = load_one(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(pixels, gray(0) / 255, atol=1e-6)
    assert pixels.max() <= 1


def test_jpeg_is_close(tmp_path):
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (32, 1))
    save(tmp_path / "a.jpeg", ramp, quality=95)
    np.testing.assert_allclose(load_one(tmp_path / "a.jpeg"), ramp / 255, atol=0.03)


def test_transparent_pixels_lie_over_white(tmp_path):
    colour = np.zeros((2, 3, 4), np.uint8)
    colour[0, :, 3] = 255
    save(tmp_path / "a.png", colour)
    np.testing.assert_array_equal(load_one(tmp_path / "a.png"), [[0, 0, 0], [1, 1, 1]])


def test_palette_and_bilevel_images(tmp_path):
    palette = PIL.Image.new("P", (2, 1))
    palette.putpalette([255, 255, 255, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_one(tmp_path / "a.png"), [[1, 0]])
    save(tmp_path / "a.png", np.array([[True, False]]))
    np.testing.assert_array_equal(load_one(tmp_path / "a.png"), [[1, 0]])


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_images_scale_by_65535(tmp_path, suffix):
    values = np.array([[0, 255, 256], [32768, 65534, 65535]], np.uint16)
    save(tmp_path / f"a.{suffix}", values)
    np.testing.assert_allclose(load_one(tmp_path / f"a.{suffix}"), values / 65535, rtol=1e-6)


def test_16_bit_colour_scales_too(tmp_path):
    header = b"P6 2 1 65535\n"
    values = np.array([[[65535] * 3, [32768] * 3]], ">u2")
    (tmp_path / "a.pgm").write_bytes(header + values.tobytes())
    np.testing.assert_allclose(load_one(tmp_path / "a.pgm"), [[1, 0.5]], atol=1 / 255)


def test_floating_point_images_are_taken_as_they_are(tmp_path):
    values = np.array([[0, 0.25], [0.5, 1]], np.float32)
    save(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(load_one(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 255.0, -0.1])
def test_floating_point_images_out_of_range_are_refused(tmp_path, bad):
    save(tmp_path / "scan.tif", np.array([[0, bad]], np.float32))
    with pytest.raises(ValueError, match=r"scan\.tif: its floating-point values must lie in \[0, 1\].*Remove"):
        load_images(tmp_path)


def test_integers_without_a_known_white_are_refused(tmp_path):
    save(tmp_path / "labels.tif", np.array([[0, 70000]], np.int32))
    with pytest.raises(ValueError, match=r"labels\.tif: it has 32-bit or signed integers"):
        load_images(tmp_path)


# --- errors of loading ---


def test_a_missing_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`--data` must be .* nothing lies at .*nowhere.*leave --data out"):
        load_images(tmp_path / "nowhere")


def test_a_file_that_is_no_zip(tmp_path):
    save(tmp_path / "a.png", gray(0))
    with pytest.raises(ValueError, match=r"`--data` must be a folder or a zip .*a\.png is another file"):
        load_images(tmp_path / "a.png")


def test_a_damaged_zip(archive):
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"`--data` .*images\.zip is a damaged zip .*again"):
        load_images(archive)


def test_a_folder_or_zip_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"`--data` .* holds no image.*\.png, \.jpg"):
        load_images(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("notes.txt", "no image")
    with pytest.raises(ValueError, match=r"`--data` .*a\.zip holds no image"):
        load_images(tmp_path / "a.zip")


@pytest.mark.parametrize("length", [0, 20, -30])
def test_a_damaged_image_is_named(folder, length):
    save(folder / "broken.png", gray(0, 40, 40))
    (folder / "broken.png").write_bytes((folder / "broken.png").read_bytes()[:length])
    with pytest.raises(ValueError, match=r"`--data` .* cannot be read, broken\.png: .*Remove or replace it"):
        load_images(folder)


def test_a_damaged_zip_member_is_named(archive):
    contents = bytearray(archive.read_bytes())
    position = contents.index(gray(1).tobytes())  # the pixels of a.pgm, stored as they are
    contents[position] ^= 1
    archive.write_bytes(contents)
    with pytest.raises(ValueError, match=r"images\.zip holds an image that cannot be read, a\.pgm: .*CRC"):
        load_images(archive)


def test_missing_extras(folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'scikit-image.*pip install "unroll_jax\[experiments\]"'):
        load_images(None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ModuleNotFoundError, match=r'needs PIL\.Image: pip install "unroll_jax\[experiments\]"'):
        load_images(folder)


def test_a_bundled_image_that_is_missing_is_not_downloaded(monkeypatch):
    monkeypatch.setattr(data, "BUNDLED_IMAGES", ("camera.png", "eagle.png"))
    with pytest.raises(FileNotFoundError, match=r"lacks eagle\.png.*--data"):
        load_images(None)


# --- splitting ---


def numbered(count):
    return [Image(f"{index:03d}.png", np.full((2, 2), index / 100, np.float32)) for index in range(count)]


def names(images):
    return [image.name for image in images]


@pytest.mark.parametrize(("held_out", "expected"), [(0.25, 5), (0.001, 1), (0.999, 19)])
def test_split_parts_share_nothing_and_lose_nothing(held_out, expected):
    images = numbered(20)
    train, test = split_images(images, held_out=held_out, seed=0)
    assert len(test) == expected
    assert sorted(names(train) + names(test)) == names(images)
    assert names(train) == sorted(names(train))
    assert names(test) == sorted(names(test))


def test_split_depends_on_the_seed_and_not_on_the_order():
    images = numbered(20)
    first = split_images(images, held_out=0.3, seed=1)
    again = split_images(images[::-1], held_out=0.3, seed=1)
    other = split_images(images, held_out=0.3, seed=2)
    assert names(first[1]) == names(again[1])
    assert names(first[1]) != names(other[1])


def test_split_errors():
    with pytest.raises(ValueError, match=r"`images` must be at least 2 .*got 1.*--data"):
        split_images(numbered(1), held_out=0.5, seed=0)
    for held_out in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"`held_out` must lie in \(0, 1\), got"):
            split_images(numbered(3), held_out=held_out, seed=0)


# --- patches ---


def test_patches_are_cut_from_the_images():
    rng = np.random.default_rng(0)
    images = [Image(str(shape), rng.random(shape, np.float32)) for shape in [(5, 4), (3, 3), (2, 9), (3, 7)]]
    patches = sample_patches(images, size=3, num_patches=200, seed=0)
    assert patches.shape == (200, 9)
    assert patches.dtype == np.float32
    windows = [
        np.lib.stride_tricks.sliding_window_view(image.pixels, (3, 3)).reshape(-1, 9)
        for image in images
        if min(image.pixels.shape) >= 3
    ]
    expected = {row.tobytes() for row in np.concatenate(windows)}
    # 200 draws from 6 + 1 + 5 positions miss none
    assert {row.tobytes() for row in patches} == expected


def test_positions_are_uniform_over_all_images():
    # 1 x 1 patches tell their position: 10 in the first image, 30 in the second
    images = [Image("a", np.arange(10.0).reshape(2, 5)), Image("b", 10 + np.arange(30.0).reshape(5, 6))]
    patches = sample_patches(images, size=1, num_patches=40_000, seed=0)
    counts = np.bincount(patches[:, 0].astype(int), minlength=40)
    chi_squared = np.sum((counts - 1000.0) ** 2 / 1000)
    assert chi_squared < 73  # exceeded once in 1,000 seeds, for 39 degrees of freedom


def test_patches_are_deterministic():
    images = [Image("a", np.random.default_rng(0).random((20, 20), np.float32))]
    first, again, other = (sample_patches(images, size=4, num_patches=8, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_patch_errors():
    images = [Image("a", np.zeros((3, 9), np.float32)), Image("b", np.zeros((7, 2), np.float32))]
    with pytest.raises(ValueError, match=r"`size` is 4, but no image is at least 4 x 4; .*: 3 x 9, 7 x 2\. Take"):
        sample_patches(images, size=4, num_patches=1, seed=0)
    with pytest.raises(ValueError, match="there are no images"):
        sample_patches([], size=4, num_patches=1, seed=0)
    with pytest.raises(ValueError, match="`size` and `num_patches` must be at least 1, got 2 and 0"):
        sample_patches(images, size=2, num_patches=0, seed=0)


def test_whole_images():
    rows = whole_images(numbered(3), 2)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, np.repeat([[0], [0.01], [0.02]], 4, axis=1))
    with pytest.raises(ValueError, match=r"must all be 3 x 3, but 000\.png is 2 x 2 .*`sample_patches`"):
        whole_images(numbered(3), 3)
