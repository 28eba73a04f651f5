"""Convolutions with zeros outside as products of matrices, tile by tile: fast inside of loops on CPU.

A tile of t x t pixels sees a window of t + size - 1 pixels along each axis; its outputs are the window times one matrix
with the kernel's entries at t^2 shifts. There are more multiplications by ((t + size - 1) / size)^2, but XLA runs a
product inside of a loop as fast as outside, and a convolution three times slower there (jax issue 12868). Measured: a
13 x 13 kernel with 60 channels on 481 x 321 pixels takes 56 ms in a loop, against 388 ms.
"""

import jax.numpy as jnp

from unroll_jax._types import Array

TILE = 4


def to_tiles(x: Array, kernel: Array) -> Array:
    """The convolution of `x` with `kernel` in tiles: `(rows, columns, t * t, out_channels)`.

    y[i] = sum_p kernel[p]^T x[i + p - middle], as `Convolution` has it, and zero in the parts of tiles that are not in
    the image.

    Args:
        x: `(height, width, in_channels)`.
        kernel: `(size, size, in_channels, out_channels)` with odd sizes.
    """
    windows = _windows(x, kernel)
    tiles = windows @ _shifted(kernel)
    tiles = tiles.reshape(*windows.shape[:2], TILE * TILE, kernel.shape[3])
    return _inside(tiles, (x.shape[0], x.shape[1]))


def from_tiles(tiles: Array, kernel: Array, size: tuple[int, int]) -> Array:
    """The adjoint of `to_tiles`: an image `(height, width, in_channels)` of the size given."""
    rows, columns = tiles.shape[:2]
    reach = _reach(kernel)
    products = _inside(tiles, size).reshape(rows, columns, -1) @ _shifted(kernel).T
    windows = products.reshape(rows, columns, *reach, TILE, TILE, kernel.shape[2])
    blocks = 0
    for i in range(reach[0]):
        for j in range(reach[1]):
            margins = [(i, reach[0] - 1 - i), (j, reach[1] - 1 - j), (0, 0), (0, 0), (0, 0)]
            blocks += jnp.pad(windows[:, :, i, j], margins)
    rows, columns = rows + reach[0] - 1, columns + reach[1] - 1
    padded = jnp.swapaxes(blocks, 1, 2).reshape(rows * TILE, columns * TILE, kernel.shape[2])
    top, left = kernel.shape[0] // 2, kernel.shape[1] // 2
    return padded[top : top + size[0], left : left + size[1]]


def image_of_tiles(tiles: Array, size: tuple[int, int]) -> Array:
    """What `to_tiles` gives as an image: `(height, width, out_channels)`."""
    rows, columns, _, channels = tiles.shape
    blocks = tiles.reshape(rows, columns, TILE, TILE, channels)
    return jnp.swapaxes(blocks, 1, 2).reshape(rows * TILE, columns * TILE, channels)[: size[0], : size[1]]


def tiles_of_image(x: Array) -> Array:
    """An image in tiles, as `from_tiles` takes it: the inverse of `image_of_tiles`, with zeros beyond the image."""
    height, width, channels = x.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    padded = jnp.pad(x, [(0, rows * TILE - height), (0, columns * TILE - width), (0, 0)])
    blocks = jnp.swapaxes(padded.reshape(rows, TILE, columns, TILE, channels), 1, 2)
    return blocks.reshape(rows, columns, TILE * TILE, channels)


def _reach(kernel: Array) -> tuple[int, int]:
    """How many tiles a window covers along each axis."""
    height, width = kernel.shape[:2]
    return -(-(TILE + height - 1) // TILE), -(-(TILE + width - 1) // TILE)


def _windows(x: Array, kernel: Array) -> Array:
    """What every tile sees, `(rows, columns, window)`: whole tiles side by side, so that nothing is gathered."""
    (height, width, channels), reach = x.shape, _reach(kernel)
    rows, columns = -(-height // TILE), -(-width // TILE)
    top, left = kernel.shape[0] // 2, kernel.shape[1] // 2
    all_rows, all_columns = rows + reach[0] - 1, columns + reach[1] - 1
    margins = [(top, all_rows * TILE - height - top), (left, all_columns * TILE - width - left), (0, 0)]
    blocks = jnp.pad(x, margins).reshape(all_rows, TILE, all_columns, TILE, channels)
    blocks = jnp.swapaxes(blocks, 1, 2).reshape(all_rows, all_columns, -1)
    return jnp.concatenate(
        [blocks[i : i + rows, j : j + columns] for i in range(reach[0]) for j in range(reach[1])], axis=-1
    )


def _shifted(kernel: Array) -> Array:
    """The matrix from a window to the outputs of its tile: `(window, t * t * out_channels)`."""
    (height, width, num_in, num_out), reach = kernel.shape, _reach(kernel)
    sides = [TILE * number for number in reach]
    shifts = [
        jnp.pad(kernel, [(u, sides[0] - height - u), (v, sides[1] - width - v), (0, 0), (0, 0)])
        for u in range(TILE)
        for v in range(TILE)
    ]
    matrix = jnp.stack(shifts, axis=3).reshape(reach[0], TILE, reach[1], TILE, num_in, TILE * TILE, num_out)
    return jnp.swapaxes(matrix, 1, 2).reshape(-1, TILE * TILE * num_out)


def _inside(tiles: Array, size: tuple[int, int]) -> Array:
    """`tiles` with zeros beyond the image."""
    if size[0] % TILE == 0 and size[1] % TILE == 0:
        return tiles
    rows, columns = tiles.shape[:2]
    row = TILE * jnp.arange(rows)[:, None] + jnp.repeat(jnp.arange(TILE), TILE)[None]
    column = TILE * jnp.arange(columns)[:, None] + jnp.tile(jnp.arange(TILE), TILE)[None]
    is_inside = (row < size[0])[:, None, :, None] & (column < size[1])[None, :, :, None]
    return jnp.where(is_inside, tiles, 0)
