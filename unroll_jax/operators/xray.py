"""X-ray transforms: computed tomography with parallel beams, and its reconstruction by filtered backprojection.

The transform is Joseph's (1982): a ray is read once on every row of pixels, or where it is flatter than half a right
angle once on every column, by linear interpolation between the two nearest pixels. In closed form, with the position t
of a pixel along the detector and c the larger of |cos| and |sin| of the angle, a pixel's weight in the ray at t' is
hat((t' - t) / c) / c,  hat(u) = max(1 - |u|, 0). So both the transform and its exact adjoint only gather, without the
scattered sums that a transposed gather is made of and that are slow on a CPU.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_count, check_inexact
from unroll_jax._types import Array
from unroll_jax.operators.fourier import in_precision_of

Filter = Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ParallelBeamCT:
    """The line integrals of an image along parallel rays under several angles: its sinogram.

    The ray at angle a and position t is  x cos a + y sin a = t  with x to the right, y up and the origin in the
    middle of the image, so that a = 0 sums columns. Linear interpolation (Joseph 1982) with an exact adjoint; both can
    be differentiated any number of times, in the image and in the angles, and both are as fast in reverse.

    Attributes:
        angles: `(num_angles,)`, in radians. New values compile nothing; a batch of sets of angles goes by `jax.vmap`.
        image_shape: `(height, width)` or `(height, width, 1)` of the images.
        num_detectors: rays per angle, in the middle of the image at position (num_detectors - 1) / 2;
            `math.ceil(math.hypot(height, width))` of spacing 1 see all of it.
        detector_spacing: between rays, in sides of a pixel, which is also the unit of the integrals.

    >>> operator = ParallelBeamCT(jnp.array([0.0, jnp.pi / 2]), (2, 2), num_detectors=2)
    >>> operator(jnp.array([[1.0, 2.0], [3.0, 4.0]])).round(5)
    Array([[4., 6.],
           [7., 3.]], dtype=float32)
    """

    angles: Array
    image_shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    num_detectors: int = dataclasses.field(metadata={"static": True})
    detector_spacing: float = dataclasses.field(default=1.0, metadata={"static": True})

    def __call__(self, x: Array) -> Array:
        """The sinogram of the image `x`: `(num_angles, num_detectors)`, in the unit of `x` times pixels."""
        _check_shape("x", x, self.image_shape, self)
        return _matched(_project, _backproject_matched, self, in_precision_of(x, self.angles), x)

    def adjoint(self, y: Array) -> Array:
        """The exact adjoint, the backprojection of the sinogram `y`: `image_shape`."""
        _check_shape("y", y, (*jnp.shape(self.angles), self.num_detectors), self)
        return _matched(_backproject_matched, _project, self, in_precision_of(y, self.angles), y)

    def norm_bound(self, num_steps: int = 8) -> Array:
        """An upper bound of the spectral norm: `()`.

        No weight is negative, so ||A||^2 <= max over pixels of (A* A v) / v for every positive v (Collatz 1942). From
        v = 1, power iteration lowers the bound toward the norm, and stays above it at every step.

        Args:
            num_steps: of power iteration, at least 1; each applies the operator and its adjoint.
        """
        check_count("num_steps", num_steps)
        height, width = self.image_shape[:2]
        v = jnp.ones(self.image_shape, jnp.result_type(self.angles))

        def power_step(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            v = carry[0]
            image = self.adjoint(self(v))
            # a pixel that no ray sees adds nothing, and keeps its place
            bound = jnp.max(jnp.where(image > 0, image / v, 0))
            return jnp.where(image > 0, image / jnp.max(image), v), bound

        _, bound = jax.lax.fori_loop(0, num_steps, power_step, (v, jnp.zeros((), v.dtype)))
        # room for the rounding of the sums
        return jnp.sqrt(bound) * (1 + (height + width + self.angles.size) * float(jnp.finfo(bound.dtype).eps))


def filtered_backprojection(operator: ParallelBeamCT, sinogram: Array, *, filter: Filter = "ramp") -> Array:
    """The image whose sinogram is `sinogram`, by the inversion formula of the Radon transform: `image_shape`.

    (pi / num_angles) times the sum over angles of the filtered projections, read at every pixel by linear
    interpolation. The filter is the ramp |frequency| up to the Nyquist frequency in its exact form in space, 1/4 at 0,
    -1 / (pi n)^2 at odd n, and 0 at even ones, which leaves the mean right where a ramp sampled in frequency does not
    (Kak and Slaney 1988, section 3.3). Every other filter is the ramp times a window that falls toward that frequency.

    Args:
        operator: with angles that are evenly spaced over a half turn.
        sinogram: `(num_angles, num_detectors)`.
        filter: `"ramp"`, or with less noise and less detail in this order: `"shepp-logan"`, `"cosine"`, `"hamming"`,
            `"hann"`.

    Raises:
        ValueError: if `operator` is none of parallel beams, `sinogram` has another shape, or `filter` is none of these.

    >>> operator = ParallelBeamCT(jnp.pi * jnp.arange(60) / 60, (31, 31), num_detectors=45)
    >>> disk = (jnp.hypot(*jnp.meshgrid(jnp.arange(-15.0, 16.0), jnp.arange(-15.0, 16.0))) < 9).astype(float)
    >>> image = jax.jit(filtered_backprojection)(operator, operator(disk))
    >>> bool(jnp.abs(image[15, 15] - 1) < 0.02)
    True
    """
    if not isinstance(operator, ParallelBeamCT):
        raise ValueError(f"`operator` must be a ParallelBeamCT, got {type(operator).__name__}.")
    if filter not in get_args(Filter):
        raise ValueError(f"`filter` must be one of {get_args(Filter)}, got {filter!r}.")
    _check_shape("sinogram", sinogram, (*jnp.shape(operator.angles), operator.num_detectors), operator)
    real = jnp.finfo(jnp.result_type(sinogram)).dtype
    # so long that the end of the filtered projection does not reach its start
    size = 2 ** math.ceil(math.log2(2 * operator.num_detectors))
    index = jnp.arange(size)
    place = jnp.minimum(index, size - index).astype(real)
    odd = index % 2 == 1
    ramp = jnp.where(odd, -1 / jnp.square(jnp.pi * jnp.where(odd, place, 1)), 0).at[0].set(0.25)
    response = jnp.fft.fft(ramp).real * _window(filter, place / size)
    spectrum = jnp.fft.fft(sinogram, size, axis=1) * response[None]
    filtered = jnp.fft.ifft(spectrum, axis=1)[:, : operator.num_detectors]
    if not jnp.iscomplexobj(sinogram):
        filtered = filtered.real
    angles = in_precision_of(sinogram, operator.angles)
    spacing = operator.detector_spacing
    image = _backproject(operator, angles, filtered, jnp.full_like(angles, spacing))
    return image * (math.pi / angles.size)


def _window(filter: Filter, frequency: Array) -> Array:
    """The window at frequencies in [0, 1/2], in cycles per detector."""
    windows: dict[str, Callable[[], Array]] = {
        "ramp": lambda: jnp.ones_like(frequency),
        "shepp-logan": lambda: jnp.sinc(frequency),
        "cosine": lambda: jnp.cos(math.pi * frequency),
        "hamming": lambda: 0.54 + 0.46 * jnp.cos(2 * math.pi * frequency),
        "hann": lambda: 0.5 + 0.5 * jnp.cos(2 * math.pi * frequency),
    }
    return windows[filter]()


def _project(geometry: ParallelBeamCT, angles: Array, x: Array) -> Array:
    """One line of pixels after the other, with all rays at once: its pixels are what the cache holds."""
    height, width = geometry.image_shape[:2]
    image = x.reshape(height, width)
    length = max(height, width)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    # steep rays cross rows, flat rays cross columns; y points up
    is_flat = jnp.abs(sin) > jnp.abs(cos)
    along, across = jnp.where(is_flat, -sin, cos), jnp.where(is_flat, cos, -sin)
    size = jnp.where(is_flat, height, width)
    # lines of both kinds of the same length, with zeros around them
    rows = jnp.pad(image, ((0, length - height), (1, 2 + length - width)))
    columns = jnp.pad(image.T, ((0, length - width), (1, 2 + length - height)))
    lines = jnp.concatenate([rows, columns], axis=1)
    start = jnp.where(is_flat, rows.shape[1], 0)[:, None]
    rays = _centered(geometry.num_detectors, angles.dtype) * geometry.detector_spacing
    place = jnp.arange(length, dtype=angles.dtype)[:, None] - ((jnp.where(is_flat, width, height) - 1) / 2)[None]
    # sums alone in the loop: a compiler may evaluate products twice with different rounding, and the two
    # neighbours of a position would then not be neighbours
    from_rays = rays[None] / along[:, None] + ((size + 1) / 2).astype(angles.dtype)[:, None]
    from_lines = -place * (across / along)[None]

    def add_line(sinogram: Array, line: tuple[Array, Array]) -> tuple[Array, None]:
        values, shift = line
        position = jnp.clip(from_rays + shift[:, None], 0, length + 1)
        before = jnp.floor(position).astype(jnp.int32)
        left, right = (values.at[start + before + k].get(mode="promise_in_bounds") for k in (0, 1))
        return sinogram + left + (position - before) * (right - left), None

    zeros = jnp.zeros((angles.size, geometry.num_detectors), x.dtype)
    sinogram, _ = jax.lax.scan(add_line, zeros, (lines, from_lines))
    return sinogram / jnp.abs(along)[:, None]


def _backproject_matched(geometry: ParallelBeamCT, angles: Array, y: Array) -> Array:
    return _backproject(geometry, angles, y, jnp.maximum(jnp.abs(jnp.cos(angles)), jnp.abs(jnp.sin(angles))))


def _backproject(geometry: ParallelBeamCT, angles: Array, y: Array, width: Array) -> Array:
    """The sum over rays of y hat(distance / width) / width for every pixel; widths `(num_angles,)` in pixels."""
    spacing = geometry.detector_spacing
    # no width is above this, so no other rays than these on each side have a weight
    reach = max(1, math.ceil(1 / spacing))
    rows, columns = (_centered(size, angles.dtype) / spacing for size in geometry.image_shape[:2])
    middle = (geometry.num_detectors - 1) / 2
    # sums alone in the loop, as in `_project`
    from_columns = jnp.cos(angles)[:, None] * columns[None] + middle
    from_rows = -jnp.sin(angles)[:, None] * rows[None]
    padded = jnp.pad(y, ((0, 0), (2 * reach, 2 * reach)))

    def add_angle(image: Array, angle: tuple[Array, ...]) -> tuple[Array, None]:
        values, across, down, narrowing = angle
        position = jnp.clip(across[None, :] + down[:, None], -reach, geometry.num_detectors - 1 + reach)
        before = jnp.floor(position).astype(jnp.int32)
        fraction = position - before
        for k in range(1 - reach, reach + 1):
            weight = jnp.maximum(1 - jnp.abs(fraction - k) * narrowing, 0)
            image = image + weight * values.at[before + 2 * reach + k].get(mode="promise_in_bounds")
        return image, None

    zeros = jnp.zeros(geometry.image_shape[:2], y.dtype)
    inputs = (padded / width[:, None], from_columns, from_rows, spacing / width)
    image, _ = jax.lax.scan(add_angle, zeros, inputs)
    return image.reshape(geometry.image_shape)


def _centered(size: int, dtype: Any) -> Array:
    return jnp.arange(size, dtype=dtype) - (size - 1) / 2


# one program where the operator is called outside of jax.jit
@functools.partial(jax.jit, static_argnums=(0, 1))
def _matched(
    forward: Callable[..., Array], transpose: Callable[..., Array], geometry: ParallelBeamCT, angles: Array, x: Array
) -> Array:
    """`forward(geometry, angles, x)`, whose derivative in x, transposed, is `transpose(geometry, angles, y)`.

    As the w that solves (z, w - forward(z)) = (x, 0), a linear system of which JAX takes the transposed solution from
    us, in derivatives of any order and under `jax.vmap`. One vector holds z and w, as JAX 0.10 fails for a pair of
    which one has no derivative.
    """
    shape = jax.eval_shape(forward, geometry, angles, x).shape

    def part(vector: Array) -> Array:
        return vector[: x.size].reshape(x.shape)

    def rest(vector: Array) -> Array:
        return vector[x.size :].reshape(shape)

    def joined(z: Array, w: Array) -> Array:
        return jnp.concatenate([z.ravel(), w.ravel()])

    solution = jax.lax.custom_linear_solve(
        lambda v: joined(part(v), rest(v) - forward(geometry, angles, part(v))),
        joined(x, jnp.zeros(shape, x.dtype)),
        lambda _, v: joined(part(v), rest(v) + forward(geometry, angles, part(v))),
        lambda _, v: joined(part(v) + transpose(geometry, angles, rest(v)), rest(v)),
    )
    return rest(solution)


def _check_shape(name: str, x: Array, shape: tuple[int, ...], operator: ParallelBeamCT) -> None:
    if jnp.ndim(operator.angles) != 1:
        raise ValueError(
            f"`angles` must have shape (num_angles,), got {jnp.shape(operator.angles)}. "
            "Map over a batch of operators by jax.vmap."
        )
    expected = operator.image_shape
    if not isinstance(expected, tuple) or len(expected) not in (2, 3) or expected[2:] not in ((), (1,)):
        raise ValueError(f"`image_shape` must be (height, width) or (height, width, 1), got {expected}.")
    check_count("num_detectors", operator.num_detectors)
    if not operator.detector_spacing > 0:
        raise ValueError(f"`detector_spacing` must be positive, in pixels, got {operator.detector_spacing}.")
    check_inexact(name, x)
    if jnp.shape(x) != shape:
        raise ValueError(
            f"`{name}` must have the shape {shape} for this operator, got {jnp.shape(x)}. "
            "Pass one example per call and take batches by jax.vmap."
        )
