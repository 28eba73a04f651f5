"""Images for the experiments, from a folder, a zip or scikit-image's own, and patches of them."""

import importlib
import importlib.util
import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

# The natural photographs and textures inside scikit-image's wheel; the rest of `skimage.data` are drawings,
# documents, medical and deep-sky images, or downloads. Of its stereo pair only one is here, or a held-out
# image might show a scene of the training.
BUNDLED_IMAGES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "moon.png",
    "motorcycle_left.png",
    "rocket.jpg",
)

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".pgm")

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue: Rec. ITU-R BT.601


class Image(NamedTuple):
    """One gray image.

    Attributes:
        name: the file's path below the folder or inside the zip it came from.
        pixels: `(height, width)`, float32 in [0, 1].
    """

    name: str
    pixels: np.ndarray


def load_images(path: Path | None, *, progress: bool = True) -> list[Image]:
    """The images at `path` in gray, sorted by name.

    Colour becomes gray by the Rec. 601 luma 0.299 R + 0.587 G + 0.114 B of the stored values, like Pillow's
    mode "L" but without rounding. Transparent pixels are laid over white. Integers of 8 or 16 bits scale to
    [0, 1]; floating-point images must lie there. Of a file with several pages the first is read.

    Args:
        path: a folder, read with its subfolders, or a zip, read without unpacking; hidden files and those
            without one of `SUFFIXES` are left out. None stands for `BUNDLED_IMAGES`, which need no network.
        progress: whether a bar may appear: on a terminal, if reading takes longer than a second.

    Raises:
        FileNotFoundError: where nothing lies at `path`.
        ValueError: for a path that is no folder or zip or has no image, and an image that cannot be read.
        ModuleNotFoundError: where Pillow, tqdm or (for None) scikit-image is not installed.
    """
    if path is None:
        folder = _bundled_folder()
        return _read_images(folder, BUNDLED_IMAGES, lambda name: (folder / name).read_bytes(), progress)
    if not path.exists():
        raise FileNotFoundError(
            f"`--data` must be a folder or a zip of images, but nothing lies at {path}. "
            "Check the path, or leave --data out for the photographs that come with scikit-image."
        )
    if path.is_dir():
        names = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        return _read_images(path, names, lambda name: (path / name).read_bytes(), progress)
    with _open_zip(path) as archive:
        return _read_images(path, archive.namelist(), archive.read, progress)


def load_picture(path: Path) -> np.ndarray:
    """One picture with its channels: `(height, width, 1)` in gray or `(height, width, 3)` in colour, in [0, 1].

    Scaled as in `load_images`; transparent pixels are laid over white.

    Raises:
        FileNotFoundError: where no file lies at `path`.
        ValueError: for a file that cannot be read as a picture.
        ModuleNotFoundError: where Pillow is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no picture lies at {path}. Check the path.")
    pillow = _extra("PIL.Image")
    try:
        with pillow.open(path) as image:
            if image.mode in ("F", "1", "L", "LA") or image.mode.startswith("I"):
                return _to_gray(image)[..., None]
            rgba = np.asarray(image.convert("RGBA"), np.float32) / 255
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise ValueError(f"{path} cannot be read as a picture: {error}.") from error
    alpha = rgba[..., 3:]
    return np.minimum(alpha * rgba[..., :3] + (1 - alpha), 1)


def split_images(images: Sequence[Image], *, held_out: float, seed: int) -> tuple[list[Image], list[Image]]:
    """`images` in two parts, (training, held out), each sorted by name.

    Whole images (or tiles, see `cut_tiles`) are split, never patches, so that no patch of one part shares a pixel
    with the other. The split depends on the names and the seed alone, not on the order of `images`.

    Args:
        images: at least 2.
        held_out: the share of images in the second part, in (0, 1); each part has at least one.
        seed: non-negative.
    """
    if len(images) < 2:
        raise ValueError(f"`images` must be at least 2 to hold some out, got {len(images)}: extend --data.")
    if not 0 < held_out < 1:
        raise ValueError(f"`held_out` must lie in (0, 1), got {held_out}: it is a share of the images.")
    by_name = sorted(images, key=lambda image: image.name)
    num_held_out = min(max(round(held_out * len(images)), 1), len(images) - 1)
    order = np.random.default_rng(seed).permutation(len(images))
    test, train = np.sort(order[:num_held_out]), np.sort(order[num_held_out:])
    return [by_name[index] for index in train], [by_name[index] for index in test]


def cut_tiles(images: Sequence[Image], *, size: int) -> list[Image]:
    """The images cut into square tiles that share no pixel, row by row; what is left at the borders is dropped.

    Few images differ too much from each other to hold whole ones out; their tiles can be split instead.

    Args:
        images: each at least `size` high and wide, or it yields no tile.
        size: the tiles' height and width in pixels, at least 1.
    """
    return [
        Image(f"{name}[{top}:{top + size},{left}:{left + size}]", pixels[top : top + size, left : left + size])
        for name, pixels in images
        for top in range(0, pixels.shape[0] - size + 1, size)
        for left in range(0, pixels.shape[1] - size + 1, size)
    ]


def middle(pixels: np.ndarray, size: int) -> np.ndarray:
    """The middle of an image, at most `size` high and wide."""
    top, left = (max(side - size, 0) // 2 for side in pixels.shape)
    return pixels[top : top + size, left : left + size]


def sample_patches(images: Sequence[Image], *, size: int, num_patches: int, seed: int) -> np.ndarray:
    """Square patches as rows: `(num_patches, size * size)`, float32.

    They are drawn uniformly, with replacement, from all positions in all images.

    Args:
        images: those smaller than a patch are left out; at least one must be large enough.
        size: the patch's height and width in pixels.
        num_patches: at least 1.
        seed: non-negative.

    >>> image = Image("ramp", np.arange(6, dtype=np.float32).reshape(2, 3) / 10)
    >>> sample_patches([image], size=2, num_patches=3, seed=0)
    array([[0.1, 0.2, 0.4, 0.5],
           [0.1, 0.2, 0.4, 0.5],
           [0.1, 0.2, 0.4, 0.5]], dtype=float32)
    """
    if size < 1 or num_patches < 1:
        raise ValueError(f"`size` and `num_patches` must be at least 1, got {size} and {num_patches}.")
    shapes = np.array([image.pixels.shape for image in images]).reshape(-1, 2)
    extents = np.maximum(shapes - size + 1, 0)  # positions down and across
    ends = np.cumsum(np.prod(extents, axis=1))
    if len(images) == 0 or ends[-1] == 0:
        sizes = [f"{height} x {width}" for height, width in np.unique(shapes, axis=0)]
        found = ", ".join(sizes[:8]) + (", ..." if len(sizes) > 8 else "")
        raise ValueError(
            f"`size` is {size}, but no image is at least {size} x {size}; the sizes (height x width) are: "
            f"{found or 'none, as there are no images'}. Take smaller patches, or larger images by --data."
        )
    positions = np.random.default_rng(seed).integers(ends[-1], size=num_patches)
    owners = np.searchsorted(ends, positions, side="right")
    tops, lefts = np.divmod(positions - (ends - np.prod(extents, axis=1))[owners], extents[owners, 1])
    patches = np.empty((num_patches, size, size), np.float32)
    for patch, owner, top, left in zip(patches, owners, tops, lefts, strict=True):
        patch[:] = images[owner].pixels[top : top + size, left : left + size]
    return patches.reshape(num_patches, size * size)


def mirrored(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every image as it is, or mirrored left to right, up to down, or both: `(num_images, height, width, channels)`."""
    flips = rng.random((2, len(images), 1, 1, 1)) < 0.5
    images = np.where(flips[0], images[:, :, ::-1], images)
    return np.where(flips[1], images[:, ::-1], images)


def whole_images(images: Sequence[Image], size: int) -> np.ndarray:
    """All of `images`, each exactly `size` x `size`, as rows in their order: `(num_images, size * size)`."""
    for name, pixels in images:
        if pixels.shape != (size, size):
            height, width = pixels.shape
            raise ValueError(
                f"`images` must all be {size} x {size}, but {name} is {height} x {width} (height x width). "
                "Draw patches by `sample_patches` instead."
            )
    return np.array([pixels for _, pixels in images], np.float32).reshape(-1, size * size)


def _bundled_folder() -> Path:
    # the functions of skimage.data would go to the network for a file that is missing
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            'The images that come with scikit-image need it: pip install "unroll_jax[experiments]". '
            "Or pass a folder or a zip of images by --data."
        )
    folder = Path(spec.origin).parent / "data"
    missing = [name for name in BUNDLED_IMAGES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}, which scikit-image's wheel contains. "
            "Install that by pip, or pass a folder or a zip of images by --data."
        )
    return folder


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        if path.suffix.lower() == ".zip":
            raise ValueError(f"`--data` {path} is a damaged zip ({error}). Copy or download it again.") from error
        raise ValueError(
            f"`--data` must be a folder or a zip of images, but {path} is another file. Pass the folder it lies in."
        ) from error


def _read_images(path: Path, names: Iterable[str], read: Callable[[str], bytes], progress: bool) -> list[Image]:
    tqdm, pillow = _extra("tqdm"), _extra("PIL.Image")
    names = sorted({name for name in names if _is_image(name)})
    if not names:
        raise ValueError(f"`--data` {path} holds no image. The suffixes known are {', '.join(SUFFIXES)}.")
    bar = tqdm.tqdm(names, "reading images", leave=False, delay=1, disable=None if progress else True)
    images = []
    for name in bar:
        try:
            with pillow.open(io.BytesIO(read(name))) as image:
                images.append(Image(name, _to_gray(image)))
        except Exception as error:  # a decoder may raise anything on a damaged file
            raise ValueError(
                f"`--data` {path} holds an image that cannot be read, {name}: {error}. Remove or replace it."
            ) from error
    return images


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    # "__MACOSX" and "._photo.jpg" are what a Mac puts beside the images in its zips
    is_hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not is_hidden


def _to_gray(image: Any) -> np.ndarray:
    if image.mode == "F":
        pixels = np.array(image, np.float32)
        if not np.all((pixels >= 0) & (pixels <= 1)):  # false for NaN as well
            raise ValueError(f"its floating-point values must lie in [0, 1], but span [{pixels.min()}, {pixels.max()}]")
        return pixels
    if image.mode == "I" and image.format == "TIFF":
        raise ValueError("it has 32-bit or signed integers, which have no known white; 8 or 16 bits unsigned do")
    if image.mode.startswith("I"):
        return np.asarray(image, np.float32) / 65535
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return np.asarray(image.convert("L"), np.float32) / 255
    rgba = np.asarray(image.convert("RGBA"), np.float32) / 255
    alpha = rgba[..., 3]
    gray = alpha * (rgba[..., :3] @ _LUMA) + (1 - alpha)
    return np.minimum(gray, 1)  # rounding may lead past white


def _extra(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'Reading images needs {name}: pip install "unroll_jax[experiments]".') from error
