"""The sparse coding problem: patches, a learned dictionary, and labels with a known accuracy."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import unroll_jax as uj
from experiments import data
from experiments.files import replacing
from experiments.sparse_coding.settings import Settings

_FLAT = 4 / 255  # a patch whose pixels deviate less from their mean says nothing of natural images
_CHUNK = 4_096  # patches coded at once
_FEW_IMAGES = 20  # fewer are cut into tiles before they are split, or train and test would show different things
_TILE = 4  # a tile's size in patch sizes


class Examples(NamedTuple):
    """Patches with their sparse codes.

    Attributes:
        x: `(num, pixels)`, the patches.
        y: `(num, atoms)`, the minimizers of the Lasso objective, up to the label gap.
    """

    x: jax.Array
    y: jax.Array


class Task(NamedTuple):
    """What is to be solved for each patch x: minimize ||dictionary(y) - x||^2 / 2 + l1_weight * ||y||_1 over y.

    Attributes:
        dictionary: the operator from codes to patches; its columns have unit norm.
        l1_weight: `()`, in the patches' unit.
    """

    dictionary: uj.operators.Dense
    l1_weight: jax.Array | float

    def least_squares(self, x: jax.Array) -> uj.objectives.LeastSquares:
        """The problem that the networks are given."""
        return uj.objectives.LeastSquares(self.dictionary, x)

    def lasso(self, x: jax.Array) -> uj.objectives.Lasso:
        """The objective that the label minimizes."""
        return uj.objectives.Lasso(self.dictionary, x, self.l1_weight)


class SparseCoding(NamedTuple):
    """A task with its data.

    Attributes:
        task: the same for all patches.
        unit: what one is in pixel intensities: the mean norm of the training patches, or 1 where each patch is
            normalized on its own.
        train, held_out: from different images, or different tiles of them.
        held_out_pixels: `(num, pixels)`, the held-out patches as they came, in [0, 1], for the shift study.
        label_gap: the largest duality gap of all labels, relative to the objective.
    """

    task: Task
    unit: float
    train: Examples
    held_out: Examples
    held_out_pixels: np.ndarray
    label_gap: float


def make_problem(settings: Settings, images: list[data.Image], seed: int) -> SparseCoding:
    """The sparse coding problem on `images`, of which about the share `settings.held_out_share` is held out.

    Whole images are held out; of fewer than 20 images, tiles.
    """
    if len(images) < _FEW_IMAGES:
        tiles = data.cut_tiles(images, size=_TILE * settings.patch_size)
        images = tiles if len(tiles) > len(images) else images
    train_images, held_out_images = data.split_images(images, held_out=settings.held_out_share, seed=seed)
    train_pixels = _draw(settings, train_images, settings.num_train, seed)
    held_out_pixels = _draw(settings, held_out_images, settings.num_held_out, seed + 1)
    unit = 1.0 if settings.normalize else float(np.mean(np.linalg.norm(train_pixels, axis=1)))
    train, held_out = (prepare_patches(p, settings.normalize, unit) for p in (train_pixels, held_out_pixels))
    l1_weight = settings.l1_weight / unit
    dictionary = learn_dictionary(
        train, round(settings.atoms_per_pixel * train.shape[1]), l1_weight, settings.dictionary_rounds, seed
    )
    task = Task(dictionary, l1_weight)
    train_codes, train_gap = sparse_codes(task, train, settings.label_gap, "labels, training")
    held_out_codes, held_out_gap = sparse_codes(task, held_out, settings.label_gap, "labels, held out")
    return SparseCoding(
        task=task,
        unit=unit,
        train=Examples(train, train_codes),
        held_out=Examples(held_out, held_out_codes),
        held_out_pixels=held_out_pixels,
        label_gap=max(train_gap, held_out_gap),
    )


def save_problem(path: Path, problem: SparseCoding) -> None:
    """Write `problem` to `path`, an .npz file, for a run that is taken up again."""
    arrays: dict[str, Any] = {
        "matrix": problem.task.dictionary.matrix,
        "l1_weight": problem.task.l1_weight,
        "unit": problem.unit,
        "train_x": problem.train.x,
        "train_y": problem.train.y,
        "held_out_x": problem.held_out.x,
        "held_out_y": problem.held_out.y,
        "held_out_pixels": problem.held_out_pixels,
        "label_gap": problem.label_gap,
    }
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def load_problem(path: Path) -> SparseCoding:
    """What `save_problem` wrote, bit for bit."""
    with np.load(path) as archive:
        arrays = dict(archive)
    return SparseCoding(
        task=Task(uj.operators.Dense(jnp.asarray(arrays["matrix"])), float(arrays["l1_weight"])),
        unit=float(arrays["unit"]),
        train=Examples(jnp.asarray(arrays["train_x"]), jnp.asarray(arrays["train_y"])),
        held_out=Examples(jnp.asarray(arrays["held_out_x"]), jnp.asarray(arrays["held_out_y"])),
        held_out_pixels=arrays["held_out_pixels"],
        label_gap=float(arrays["label_gap"]),
    )


def prepare_patches(pixels: np.ndarray, normalize: bool, unit: float) -> jax.Array:
    """Patches in the problem's unit: divided by `unit`, or each with zero mean and norm 1."""
    if normalize:
        centered = pixels - np.mean(pixels, axis=1, keepdims=True)
        return jnp.asarray(centered / np.linalg.norm(centered, axis=1, keepdims=True))
    return jnp.asarray(pixels / unit)


def learn_dictionary(
    patches: jax.Array, num_atoms: int, l1_weight: float, num_rounds: int, seed: int
) -> uj.operators.Dense:
    """A dictionary with unit-norm atoms in which `patches` are sparse: `(pixels, num_atoms)`.

    Alternates sparse codes of a random batch with the method of optimal directions (Engan et al. 1999), the least
    squares fit of the dictionary to them. An atom that no patch uses gives way to a random patch.
    """
    rng = np.random.default_rng(seed)
    batch_size = min(len(patches), max(3_072, 2 * num_atoms))

    def draw(num: int) -> jax.Array:
        return patches[rng.choice(len(patches), num, replace=len(patches) < num)]

    @jax.jit
    def improve(matrix: jax.Array, batch: jax.Array, spare: jax.Array) -> jax.Array:
        task = Task(uj.operators.Dense(matrix), l1_weight)
        codes = _solve(task, batch, tolerance=1e-2, max_steps=200).state.x
        gram = codes.T @ codes
        ridge = 1e-3 * jnp.trace(gram) / num_atoms * jnp.eye(num_atoms)
        fitted = jnp.linalg.solve(gram + ridge, codes.T @ batch).T
        is_used = jnp.linalg.norm(fitted, axis=0, keepdims=True) > 1e-3
        return _unit_columns(jnp.where(is_used, fitted, spare.T))

    matrix = _unit_columns(draw(num_atoms).T)
    for _ in tqdm(range(num_rounds), desc="dictionary", disable=None):
        matrix = jax.block_until_ready(improve(matrix, draw(batch_size), draw(num_atoms)))
    return uj.operators.Dense(matrix)


def sparse_codes(task: Task, patches: jax.Array, gap: float, description: str) -> tuple[jax.Array, float]:
    """The Lasso codes of `patches` by FISTA, and their largest duality gap relative to the objective.

    Raises:
        RuntimeError: if FISTA did not reach the gap.
    """
    solve = jax.jit(partial(_solve, tolerance=gap, max_steps=20_000))
    num_chunks = -(-len(patches) // _CHUNK)
    codes, gaps = [], []
    for chunk in tqdm(jnp.array_split(patches, num_chunks), desc=description, disable=None):
        solution = solve(task, chunk)
        codes.append(solution.state.x)
        gaps.append(float(jnp.max(solution.residual)))
    if not max(gaps) <= gap:
        raise RuntimeError(
            f"FISTA ended with a relative duality gap of {max(gaps):.1e}, `label_gap` asks for {gap:.1e}: raise it, "
            "or raise `l1_weight`, which makes the problem easier."
        )
    return jnp.concatenate(codes), max(gaps)


def _solve(task: Task, patches: jax.Array, *, tolerance: float, max_steps: int) -> uj.Solution:
    params = uj.algorithms.proximal_gradient_params(task.dictionary, task.l1_weight)

    def relative_gap(_: object, state: uj.algorithms.FISTAState, problem: uj.objectives.Lasso) -> jax.Array:
        # a patch of zeros has objective and gap zero
        return problem.duality_gap(state.x) / jnp.maximum(problem.value(state.x), 1e-12)

    def code(patch: jax.Array) -> uj.Solution:
        return uj.solve(
            uj.algorithms.fista(),
            params,
            task.lasso(patch),
            tolerance=tolerance,
            max_steps=max_steps,
            residual=relative_gap,
            check_every=20,
        )

    return jax.vmap(code)(patches)


def _draw(settings: Settings, images: list[data.Image], num_patches: int, seed: int) -> np.ndarray:
    """Every image once where all have a patch's size (CIFAR-10 at 32 x 32), else patches drawn at random."""
    size = settings.patch_size
    if all(image.pixels.shape == (size, size) for image in images):
        order = np.random.default_rng(seed).permutation(len(images))[:num_patches]
        return data.whole_images([images[index] for index in order], size)
    if not settings.normalize:
        return data.sample_patches(images, size=size, num_patches=num_patches, seed=seed)
    # in photographs, less than half of the patches are flat
    pixels = data.sample_patches(images, size=size, num_patches=2 * num_patches, seed=seed)
    structured = pixels[np.std(pixels, axis=1) > _FLAT][:num_patches]
    if len(structured) < num_patches:
        raise ValueError(
            f"`--data` needs images with more structure: of {2 * num_patches} patches of {size} x {size} pixels, "
            f"only {len(structured)} are not flat, and {num_patches} are needed. Add images."
        )
    return structured


def _unit_columns(matrix: jax.Array) -> jax.Array:
    return matrix / jnp.linalg.norm(matrix, axis=0, keepdims=True)
