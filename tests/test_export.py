"""Solvers as files, with unroll_jax and without it; parameters as files."""

import ast
import dataclasses
import io
import json
import logging
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, draw, draw_like

import unroll_jax as uj
from unroll_jax import _export_loader, export

pytest.importorskip("flatbuffers")
pytest.importorskip("safetensors")

CPU = ["cpu"]


# --- three solvers, as (model, apply, one problem's spec) ---


def lista_case():
    operator = uj.operators.Dense(draw(np.random.default_rng(0), (6, 9)))
    keys = jax.random.split(jax.random.key(1), 4)
    layers = jax.vmap(lambda key: uj.algorithms.random_lista_params(key, 6, 9, gain=0.5))(keys)
    model = uj.Unrolled(uj.algorithms.lista(), 4, layers)
    apply = lambda model, y: model(uj.objectives.LeastSquares(operator, y)).x
    return model, apply, jax.ShapeDtypeStruct((6,), jnp.float32)


class Solved(NamedTuple):
    x: jax.Array
    num_steps: jax.Array
    converged: jax.Array


def solve_case():
    operator = uj.operators.Dense(draw(np.random.default_rng(2), (8, 5)))
    algorithm = uj.algorithms.proximal_gradient(prox=uj.prox.soft_threshold)
    params = uj.algorithms.proximal_gradient_params(operator, strength=0.05)

    def apply(params, y):
        problem = uj.objectives.LeastSquares(operator, y)
        solution = uj.solve(algorithm, params, problem, tolerance=1e-6, max_steps=500)
        return Solved(solution.state.x, solution.num_steps, solution.converged)

    return params, apply, jax.ShapeDtypeStruct((8,), jnp.float32)


class Denoise(NamedTuple):
    noisy: Any
    sigma: Any


class Denoiser(nnx.Module):
    def __init__(self, rngs):
        self.analysis = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.synthesis = nnx.Conv(4, 1, (3, 3), rngs=rngs)

    def __call__(self, problem):
        shrunk = jnp.tanh(self.analysis(problem.noisy)) * problem.sigma
        return {"clean": problem.noisy - self.synthesis(shrunk), "size": jnp.sum(shrunk**2)}


def denoiser_case():
    problem = Denoise(jax.ShapeDtypeStruct((8, 7, 1), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32))
    return Denoiser(nnx.Rngs(0)), lambda model, problem: model(problem), problem


CASES = {"lista": lista_case, "solve": solve_case, "denoiser": denoiser_case}


def batch_of(spec, size, seed=0):
    batched = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), spec)
    return draw_like(np.random.default_rng(seed), batched)


def in_process(model, apply, problems):
    return jax.jit(jax.vmap(apply, in_axes=(None, 0)))(model, problems)


def save_scale(path, **settings):
    """A small solver: 3 * y."""
    export.save(jnp.array(3.0), jnp.zeros(2), path, apply=lambda scale, y: scale * y, platforms=CPU, **settings)


def rewrite(path, change):
    """The archive at `path` with `change(name, contents) -> contents` made to every file."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, contents in files.items():
            archive.writestr(name, change(name, contents))


def rewrite_metadata(path, **changes):
    edit = lambda contents: json.dumps({**json.loads(contents), **changes}).encode()
    rewrite(path, lambda name, contents: edit(contents) if name == "metadata.json" else contents)


# --- the same outputs ---


@pytest.mark.parametrize("name", CASES)
def test_a_loaded_solver_gives_the_same_outputs(tmp_path, name):
    model, apply, spec = CASES[name]()
    export.save(model, spec, tmp_path / "solver.zip", apply=apply)
    assert [file.name for file in tmp_path.iterdir()] == ["solver.zip"]
    solver = export.load(tmp_path / "solver.zip")
    for size in (1, 17):
        problems = batch_of(spec, size)
        expected = in_process(model, apply, problems)
        outputs = solver(problems)
        for found, wanted in zip(jax.tree.leaves(outputs), jax.tree.leaves(expected), strict=True):
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_the_model_itself_is_applied_by_default(tmp_path):
    halving = uj.Algorithm(init=lambda problem: problem, step=lambda params, state, problem: params * state)
    network = uj.unroll(halving, 3, jnp.array(0.5))
    export.save(network, jnp.zeros(2), tmp_path / "a.zip", platforms=CPU)
    np.testing.assert_array_equal(export.load(tmp_path / "a.zip")(jnp.full((4, 2), 8.0)), np.ones((4, 2)))


def test_an_nnx_network_of_several_kinds_of_leaves(tmp_path):
    class Network(nnx.Module):
        def __init__(self):
            self.weight = nnx.Param(jnp.full(2, 2.0))
            self.half = nnx.Param(jnp.array([1.5, 2.5], jnp.bfloat16))
            self.count = nnx.Variable(jnp.array(3))
            self.key = nnx.Variable(jax.random.key(5))

        def __call__(self, y):
            noise = jax.random.normal(self.key[...], (2,))
            return self.weight[...] * y + self.count[...] + noise, self.half[...]

    network = Network()
    export.save(network, jnp.zeros(2), tmp_path / "a.zip", platforms=CPU)
    y = jnp.array([[1.0, 2.0]])
    solver = export.load(tmp_path / "a.zip")
    assert_close(solver(y), jax.vmap(network)(y), 1e-6)
    # the count and the key's bits are no parameters
    assert solver.metadata["num_parameters"] == 4
    assert sorted(weight["dtype"] for weight in solver.metadata["weights"]) == [
        "bfloat16",
        "float32",
        "int32",
        "uint32",
    ]


def test_numbers_in_the_model_do_not_promote(tmp_path):
    half = jax.ShapeDtypeStruct((2,), jnp.bfloat16)
    for scale in (0.5, jnp.asarray(0.5)):
        export.save(
            {"scale": scale}, half, tmp_path / "a.zip", apply=lambda model, y: model["scale"] * y, platforms=CPU
        )
        assert export.load(tmp_path / "a.zip")(jnp.ones((1, 2), jnp.bfloat16)).dtype == jnp.bfloat16


def test_double_precision_needs_x64(tmp_path, x64):
    apply = lambda scale, problem: scale * problem["y"]
    export.save(jnp.array(0.1), {"y": jnp.zeros(2)}, tmp_path / "a.zip", apply=apply, platforms=CPU)
    y = jnp.array([[1.0, 1 / 3]])
    solver = export.load(tmp_path / "a.zip")
    np.testing.assert_array_equal(solver({"y": y}), 0.1 * np.asarray(y))
    with pytest.raises(ValueError, match="must have dtype float64, got float32"):
        solver({"y": y.astype(jnp.float32)})
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"holds a solver with float64 arrays.*jax_enable_x64"):
        export.load(tmp_path / "a.zip")


# --- problems and outputs as pytrees ---


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Mixed:
    wave: Any
    _hidden: Any


class Nested(NamedTuple):
    signal: Any
    options: Any


def mixed_apply(scale, problem):
    count, (mask, _) = problem.options["count"], problem.options["rest"]
    wave = jnp.where(mask, scale * problem.signal.wave, 0) * count
    return [(wave, {"b": count, "a": None}), Nested(problem.signal._hidden, ()), Mixed(mask, 1.0)]


def mixed_problem(*batch):
    rng = np.random.default_rng(0)
    signal = Mixed(draw(rng, (*batch, 3), "complex64"), jnp.ones((*batch, 1), jnp.int8))
    rest = [jnp.asarray(rng.random((*batch, 3)) > 0.5), None]
    return Nested(signal, {"count": jnp.full(batch, 2), "rest": rest})


def test_complex_integer_and_boolean_leaves_in_nested_problems(tmp_path):
    export.save(jnp.array(2j), mixed_problem(), tmp_path / "a.zip", apply=mixed_apply, platforms=CPU)
    solver = export.load(tmp_path / "a.zip")
    assert [leaf["name"] for leaf in solver.metadata["problem"]["leaves"]] == [
        "signal.wave",
        "signal._hidden",
        "options.count",
        "options.rest.0",
    ]
    problems = mixed_problem(4)
    outputs = solver(problems)
    found, expected = (
        {_export_loader.leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (outputs, in_process(2j, mixed_apply, problems))
    )
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert found[name].dtype == wanted.dtype
        np.testing.assert_allclose(found[name], wanted, rtol=1e-6)
    # dictionaries, lists and tuples as they were; classes with named fields as namedtuples, or dictionaries
    (wave, counts), nested, mixed = outputs
    assert isinstance(outputs, list) and isinstance(outputs[0], tuple) and wave.shape == (4, 3)
    assert counts["a"] is None and counts["b"].shape == (4,)
    assert type(nested).__name__ == "Nested" and nested._fields == ("signal", "options") and nested.options == ()
    assert mixed.keys() == {"wave", "_hidden"}
    # a second solver has the same classes
    assert jax.tree.structure(export.load(tmp_path / "a.zip")(problems)) == jax.tree.structure(outputs)


def test_leaves_are_found_by_name_in_any_pytree(tmp_path):
    problem = Denoise(jnp.zeros(3), jnp.zeros(3))
    export.save((), problem, tmp_path / "a.zip", apply=lambda _, problem: problem.noisy - problem.sigma, platforms=CPU)
    solver = export.load(tmp_path / "a.zip")
    noisy, sigma = jnp.ones((2, 3)), jnp.zeros((2, 3))
    for problems in (
        Denoise(noisy, sigma),
        {"sigma": sigma, "noisy": noisy},
        {"noisy": np.ones((2, 3)), "sigma": np.zeros((2, 3), np.float32)},
    ):
        np.testing.assert_array_equal(solver(problems), np.ones((2, 3)))


def test_typed_keys_are_problems_and_outputs(tmp_path):
    apply = lambda scale, key: (scale * jax.random.normal(key, (2,)), jax.random.fold_in(key, 1))
    export.save(jnp.array(2.0), jax.random.key(0), tmp_path / "a.zip", apply=apply, platforms=CPU)
    solver = export.load(tmp_path / "a.zip")
    assert solver.metadata["problem"]["leaves"] == [{"name": "", "shape": [], "dtype": "uint32", "key": "threefry2x32"}]
    keys = jax.random.split(jax.random.key(3), 5)
    assert_close(solver(keys), jax.vmap(lambda key: apply(2.0, key))(keys), 1e-6)
    for wrong in (jax.random.key_data(keys), jax.random.split(jax.random.key(3, impl="rbg"), 5)):
        with pytest.raises(ValueError, match=r"must be typed random keys \(threefry2x32\), got (uint32|rbg)"):
            solver(wrong)


# --- misuse ---


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        ({"y": np.ones(2, np.float32)}, r"at y must have shape \(batch, 2\), got \(2,\)\. This is one problem: .*None"),
        ({"y": np.ones((4, 3), np.float32)}, r"at y must have shape \(batch, 2\), got \(4, 3\)\.$"),
        ({"y": np.float32(1)}, r"at y must have shape \(batch, 2\), got \(\)"),
        ({"y": np.ones((4, 2), int)}, "at y must have dtype float32, got int32. Cast it, or export"),
        ({"y": np.ones((4, 2), np.float16)}, "at y must have dtype float32, got float16"),
        ({"y": jax.random.split(jax.random.key(0), 4)}, "at y must have dtype float32, got key<fry>"),
        (np.ones((4, 2), np.float32), r"must have the leaves .*'y: float32\[batch, 2\]'\], .*got leaves named \[''\]"),
        ({"z": np.ones((4, 2), np.float32)}, r"got leaves named \['weight', 'z'\]"),
        ({"y": None}, r"got leaves named \['weight'\]\. Pass the pytree that was exported, or a dictionary"),
        ({"y": np.ones((3, 2), np.float32)}, r"share a leading batch axis of at least 1, got the sizes \[3, 4\]"),
        ({"y": np.ones((0, 2), np.float32), "weight": np.ones(0, np.float32)}, r"at least 1, got the sizes \[0\]"),
    ],
)
def test_problems_that_do_not_fit(tmp_path, problems, message):
    example = {"y": jnp.zeros(2), "weight": jnp.zeros(())}
    export.save((), example, tmp_path / "a.zip", apply=lambda _, problem: problem["y"], platforms=CPU)
    if isinstance(problems, dict):
        problems = {"weight": np.ones(4, np.float32), **problems}
    with pytest.raises(ValueError, match=message):
        export.load(tmp_path / "a.zip")(problems)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"platforms": ["cpu", "gpu"]}, "`platforms` must be a sequence of some of cpu, cuda, rocm, tpu, got"),
        ({"platforms": "cpu"}, "`platforms` must be"),
        ({"platforms": ()}, "`platforms` must be"),
        ({"metadata": {"a": [{"b": object()}]}}, r"`metadata\['a'\]\[0\]\['b'\]` must be text, a number.*got object"),
        ({"metadata": {"a": np.ones(2, complex)}}, r"`metadata\['a'\]` must be real numbers, got dtype complex128"),
        ({"metadata": {"a": {1: 2}}}, r"`metadata\['a'\]` must have text as keys, got \[1\]"),
        ({"metadata": ["a"]}, "`metadata` must be a dictionary, got list"),
        ({"example_problem": {"y": None}}, "`example_problem` must have at least one array"),
        ({"example_problem": {"a.b": 1.0, "a": {"b": 1.0}}}, "`example_problem` must have leaves of different names"),
        ({"model": {"a": "text"}}, r"`model` must have arrays as leaves, got str at \['a'\]"),
    ],
)
def test_what_cannot_be_saved(tmp_path, arguments, message):
    settings = {"model": (), "example_problem": jnp.zeros(2), "apply": lambda model, problem: problem, **arguments}
    with pytest.raises(ValueError, match=message):
        export.save(settings.pop("model"), settings.pop("example_problem"), tmp_path / "a.zip", **settings)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_says_where_it_came_up(tmp_path):
    apply = lambda _, y: jax.pure_callback(np.sin, jax.typeof(y), y, vmap_method="sequential")
    with pytest.raises(Exception, match="callback") as caught:
        export.save((), jnp.zeros(2), tmp_path / "a.zip", apply=apply, platforms=CPU)
    assert any("while exporting `apply` for batches of any size" in note for note in caught.value.__notes__)
    assert not list(tmp_path.iterdir())


def test_another_platform(tmp_path):
    export.save((), jnp.zeros(2), tmp_path / "a.zip", apply=lambda _, y: y, platforms=["tpu", "cuda"])
    solver = export.load(tmp_path / "a.zip")
    message = r"was exported for the platforms \['tpu', 'cuda'\], and cannot run on another .*cpu.*Export it again"
    with pytest.raises(ValueError, match=message):
        solver(jnp.ones((1, 2)))


def test_missing_packages_are_named(tmp_path, monkeypatch):
    save_scale(tmp_path / "a.zip")
    for name in ("flatbuffers", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None)
    message = r'needs the package {}: run `pip install "unroll_jax\[export\]"`'
    with pytest.raises(ImportError, match=message.format("flatbuffers")):
        save_scale(tmp_path / "b.zip")
    with pytest.raises(ImportError, match=message.format("flatbuffers")):
        export.load(tmp_path / "a.zip")
    with pytest.raises(ImportError, match=message.format("safetensors")):
        export.save_params(tmp_path / "a.safetensors", jnp.ones(2))
    (tmp_path / "b.safetensors").touch()
    with pytest.raises(ImportError, match=message.format("safetensors")):
        export.load_params(tmp_path / "b.safetensors", jnp.ones(2))
    assert export.read_metadata(tmp_path / "a.zip")["num_parameters"] == 1


# --- compilation, and what a call leaves alone ---


def test_every_batch_size_is_compiled_once(tmp_path, caplog):
    save_scale(tmp_path / "a.zip")
    solver = export.load(tmp_path / "a.zip")

    def num_compilations(problems):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            solver(problems)
        return sum("Compiling" in record.getMessage() for record in caplog.records)

    first, other, sizes = np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32), []
    for problems in (first, first, other, np.ones((5, 2), np.float32), first):
        sizes.append(num_compilations(problems))
    assert sizes[0] > 0 and sizes[3] > 0
    assert [sizes[index] for index in (1, 2, 4)] == [0, 0, 0]


def test_donated_problems_leave_the_weights(tmp_path):
    save_scale(tmp_path / "a.zip")
    solver = export.load(tmp_path / "a.zip")
    run = jax.jit(solver, donate_argnums=0)
    for _ in range(2):
        np.testing.assert_array_equal(run(jnp.ones((3, 2))), np.full((3, 2), 3.0))


# --- metadata ---


class Certificate(NamedTuple):
    rate: float
    holds: np.ndarray
    limit: float


def test_metadata_survives_a_round_trip(tmp_path):
    values = np.random.default_rng(0).random((50, 1)) * np.array([1.0, 0.8, 0.7])
    certificate = uj.certify(values, rate=0.05)
    user = {
        "solves": "sparse coding, µ = 0.1",
        "certificate": certificate,
        "layers": jnp.arange(2),
        "weight": np.float32(0.5),
        "half": jnp.array([1.5], jnp.bfloat16),
        "own": Certificate(0.1, np.array([True]), np.inf),
        "limits": (-np.inf, float("nan"), None, True),
    }
    save_scale(tmp_path / "a.zip", metadata=user)
    metadata = export.read_metadata(tmp_path / "a.zip")
    assert metadata == export.load(tmp_path / "a.zip").metadata
    found = metadata["user"]
    assert found.pop("certificate")["violation_bound"] == certificate.violation_bound.tolist()
    assert found == {
        "solves": "sparse coding, µ = 0.1",
        "layers": [0, 1],
        "weight": 0.5,
        "half": [1.5],
        "own": {"rate": 0.1, "holds": [True], "limit": "inf"},
        "limits": ["-inf", "nan", None, True],
    }
    assert metadata["problem"]["leaves"] == [{"name": "", "shape": [2], "dtype": "float32"}]
    assert metadata["output"]["leaves"] == [{"name": "", "shape": [2], "dtype": "float32"}]
    assert metadata["num_parameters"] == 1 and metadata["platforms"] == ["cpu"]
    assert metadata["versions"]["jax"] == jax.__version__


def test_weights_lie_beside_the_program(tmp_path):
    weights = draw(np.random.default_rng(0), (50, 50))
    export.save({"w": weights}, jnp.zeros(50), tmp_path / "a.zip", apply=lambda model, y: model["w"] @ y, platforms=CPU)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        np.testing.assert_array_equal(np.load(io.BytesIO(archive.read("weights.npz")))["['w']"], weights)
        assert archive.getinfo("program.bin").file_size < weights.nbytes


def test_the_archive_brings_the_code_and_its_licence(tmp_path):
    save_scale(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        assert b"Apache License" in archive.read("LICENSE.txt")
        assert b"Copyright" in archive.read("vendor/flatbuffers/builder.py")
        assert archive.read("unroll_jax_loader.py") == Path(_export_loader.__file__).read_bytes()
    assert names[0] == "metadata.json"
    assert {"solver.py", "__main__.py", "vendor/flatbuffers/__init__.py"} <= set(names)
    assert not any("__pycache__" in name for name in names)


# --- damaged and foreign files ---


def test_files_that_are_no_solver(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(FileNotFoundError):
        export.load(path)
    np.savez(tmp_path / "a.npz", a=np.ones(2))
    (tmp_path / "a.npz").rename(path)
    with pytest.raises(ValueError, match=r"is no solver written by unroll_jax.*load_params"):
        export.load(path)
    for contents in (b"", b"text"):
        path.write_bytes(contents)
        for read in (export.load, export.read_metadata):
            with pytest.raises(ValueError, match="is no solver written by unroll_jax"):
                read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", '{"format": "another"}')
    with pytest.raises(ValueError, match="is no solver written by unroll_jax"):
        export.read_metadata(path)


def test_truncated_files(tmp_path):
    save_scale(tmp_path / "a.zip")
    whole = (tmp_path / "a.zip").read_bytes()
    for length in (len(whole) - 1, len(whole) - 30, len(whole) // 2, 60):
        (tmp_path / "a.zip").write_bytes(whole[:length])
        for read in (export.load, export.read_metadata):
            with pytest.raises(ValueError, match=r"is damaged .*Copy or write it again"):
                read(tmp_path / "a.zip")


def test_an_edited_byte_is_found_or_without_effect(tmp_path):
    save_scale(tmp_path / "a.zip")
    metadata = export.read_metadata(tmp_path / "a.zip")
    whole = (tmp_path / "a.zip").read_bytes()
    messages = []
    positions = [*range(0, 100), *range(100, len(whole) - 400, 397), *range(len(whole) - 400, len(whole))]
    for position in positions:
        edited = bytearray(whole)
        edited[position] ^= 0x5A
        (tmp_path / "a.zip").write_bytes(edited)
        try:
            # reads all that `load` reads, without building the solver
            found, files = _export_loader._read(tmp_path / "a.zip", with_files=True)
        except ValueError as error:
            messages.append(str(error))
        else:
            assert found == metadata and len(files) == len(metadata["files"])
    assert all("is damaged" in message or "is no solver" in message for message in messages)
    assert len(messages) > 0.5 * len(positions)


def test_changed_added_and_removed_files_are_found(tmp_path):
    save_scale(tmp_path / "a.zip")
    whole = (tmp_path / "a.zip").read_bytes()
    rewrite(tmp_path / "a.zip", lambda name, contents: contents + b" " * (name == "solver.py"))
    with pytest.raises(ValueError, match=r"is damaged \(the checksum of solver.py is wrong\)"):
        export.load(tmp_path / "a.zip")
    (tmp_path / "a.zip").write_bytes(whole)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("jax.py", "raise SystemExit")
    with pytest.raises(ValueError, match=r"is damaged \(files were added to it or removed\)"):
        export.load(tmp_path / "a.zip")


def test_a_newer_format_is_refused(tmp_path):
    save_scale(tmp_path / "a.zip")
    rewrite_metadata(tmp_path / "a.zip", format_version=_export_loader.FORMAT_VERSION + 1, files="unknown")
    for read in (export.load, export.read_metadata):
        with pytest.raises(ValueError, match=r"has format version 2, newer than 1.*update unroll_jax"):
            read(tmp_path / "a.zip")


def test_a_program_that_jax_cannot_read(tmp_path):
    save_scale(tmp_path / "a.zip")
    metadata = export.read_metadata(tmp_path / "a.zip")
    program = b"\x10\x00\x00\x00 of another time"
    checksum = {"program.bin": _export_loader.hashlib.sha256(program).hexdigest()}
    rewrite(tmp_path / "a.zip", lambda name, contents: program if name == "program.bin" else contents)
    versions = {**metadata["versions"], "jax": "9.9"}
    rewrite_metadata(tmp_path / "a.zip", files={**metadata["files"], **checksum}, versions=versions)
    with pytest.raises(ValueError, match=r"was written by jax 9\.9, and jax .* cannot read its program"):
        export.load(tmp_path / "a.zip")


def test_a_program_that_jax_can_read_but_not_compile(tmp_path):
    # what an older jax meets in the program of a newer one
    def run(weights, leaves):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: Failed to deserialize StableHLO")

    save_scale(tmp_path / "a.zip")
    metadata = export.read_metadata(tmp_path / "a.zip")
    solver = export.Solver({**metadata, "versions": {"jax": "9.9"}}, run, [])
    with pytest.raises(ValueError, match=r"the solver was written by jax 9\.9, and jax .* cannot read its program"):
        solver(np.ones((1, 2), np.float32))


# --- writing ---


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_keeps_the_old_file(tmp_path):
    save_scale(tmp_path / "a.zip")
    before = (tmp_path / "a.zip").read_bytes()
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=r"`path` .*a\.zip cannot be written"):
        save_scale(tmp_path / "a.zip", metadata={"new": True})
    assert (tmp_path / "a.zip").read_bytes() == before


def test_writing_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    save_scale(tmp_path / "a.zip")
    export.save_params(tmp_path / "a.npz", jnp.ones(2))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*arguments, **settings):
        raise OSError("disk full")

    monkeypatch.setattr(zipfile.ZipFile, "close", fail)
    monkeypatch.setattr(np, "savez", fail)
    message = r"`path` .* cannot be written \(disk full\)\. What was there before is untouched"
    with pytest.raises(OSError, match=message):
        export.save_params(tmp_path / "a.npz", jnp.zeros(2))
    monkeypatch.undo()
    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(OSError, match=message):
        save_scale(tmp_path / "a.zip", metadata={"new": True})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_paths_that_cannot_be_written(tmp_path):
    (tmp_path / "folder.zip").mkdir()
    for path in (tmp_path / "missing" / "a.zip", tmp_path / "folder.zip"):
        with pytest.raises(OSError, match=r"`path` .* cannot be written"):
            save_scale(path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.zip"]


# --- where only jax is installed ---

# imports everything as usual, but for these packages: only what the archive brings
ONLY_JAX = """
import importlib.machinery, sys

class OnlyJax:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"unroll_jax", "flax", "optax", "flatbuffers", "orbax", "chex"}:
            inside = [entry for entry in (path or sys.path) if sys.argv[1] in entry]
            spec = importlib.machinery.PathFinder.find_spec(name, inside)
            if spec is None:
                raise ModuleNotFoundError(f"{name} is hidden", name=name)
            return spec

sys.meta_path.insert(0, OnlyJax())
"""

RUN = """
import sys
import numpy as np

folder = sys.argv[1]
path_before = list(sys.path)
sys.path.insert(0, folder + "/lista.zip")
import solver
import unroll_jax_loader

assert "vendor" not in "".join(sys.path)
solvers = {"lista": solver.solve}
for name in ("solve", "denoiser"):
    solvers[name] = unroll_jax_loader.load(folder + "/" + name + ".zip")
for name, solve in solvers.items():
    for size in (1, 17):
        given = np.load(f"{folder}/{name}-{size}.npz")
        # a dictionary from names to arrays, or an array alone
        problems = given[""] if list(given) == [""] else dict(given)
        outputs = solve(problems)
        if name == "lista":
            outputs = {"": outputs}
        elif name == "solve":
            assert outputs._fields == ("x", "num_steps", "converged")
            outputs = outputs._asdict()
        np.savez(f"{folder}/{name}-{size}-outputs.npz", **outputs)
assert solver.metadata["user"] == {"unit": "mm"}
import jax
print(jax.__version__, "flatbuffers" in sys.modules and sys.modules["flatbuffers"].__file__)
foreign = {module.partition(".")[0] for module in sys.modules} & {"unroll_jax", "flax", "optax"}
assert not foreign, foreign
"""


def write_cases(folder):
    """Every case's solver and problems as files in `folder`, and the outputs expected, by (name, batch size)."""
    expected = {}
    for name, make in CASES.items():
        model, apply, spec = make()
        export.save(model, spec, folder / f"{name}.zip", apply=apply, metadata={"unit": "mm"})
        for size in (1, 17):
            problems = batch_of(spec, size)
            outputs = in_process(model, apply, problems)
            given = problems._asdict() if isinstance(problems, Denoise) else {"": problems}
            np.savez(folder / f"{name}-{size}.npz", **given)
            expected[name, size] = outputs if isinstance(outputs, dict) else getattr(outputs, "_asdict", dict)()
            if name == "lista":
                expected[name, size] = {"": outputs}
    return expected


def worst_difference(folder, expected):
    """The largest difference between the outputs in `folder` and those expected, over 1 + their size."""
    worst = 0.0
    for (name, size), outputs in expected.items():
        with np.load(folder / f"{name}-{size}-outputs.npz") as found:
            assert sorted(found) == sorted(outputs)
            for key, wanted in outputs.items():
                wanted = np.asarray(wanted)
                assert (found[key].shape, found[key].dtype) == (wanted.shape, wanted.dtype)
                difference = np.abs(found[key].astype(float) - wanted) / (1 + np.abs(wanted))
                worst = max(worst, float(np.max(difference)))
    return worst


def run_python(python, *arguments, cwd):
    settings = {name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT") if name in os.environ}
    result = subprocess.run(
        [str(python), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**settings, "JAX_PLATFORMS": "cpu"},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_it_runs_where_nothing_but_jax_can_be_imported(tmp_path):
    expected = write_cases(tmp_path)
    (tmp_path / "run.py").write_text(ONLY_JAX + RUN)
    printed = run_python(sys.executable, "run.py", tmp_path, cwd=tmp_path)
    assert "vendor" in printed.split()[1]
    assert worst_difference(tmp_path, expected) < 1e-6


def test_the_archive_prints_its_metadata_without_jax(tmp_path):
    save_scale(tmp_path / "a.zip", metadata={"unit": "µm"})
    # -S: without site-packages
    printed = run_python(sys.executable, "-X", "utf8", "-S", "a.zip", cwd=tmp_path)
    assert json.loads(printed) == export.read_metadata(tmp_path / "a.zip")


def test_the_loader_imports_only_jax_numpy_and_the_standard_library():
    source = Path(_export_loader.__file__).read_text()
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(str(node.module).partition(".")[0])
    assert names - sys.stdlib_module_names == {"jax", "numpy"}


@pytest.mark.slow
def test_it_runs_in_a_virtual_environment_with_jax_alone(tmp_path):
    expected = write_cases(tmp_path)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", f"jax=={jax.__version__}"], check=True)
    listed = json.loads(run_python(*pip, "list", "--format", "json", cwd=tmp_path))
    installed = {package["name"].lower() for package in listed} - {"pip", "setuptools"}
    assert not installed & {"unroll_jax", "flax", "optax", "flatbuffers"}
    (tmp_path / "run.py").write_text(RUN)
    printed = run_python(python, "run.py", tmp_path, cwd=tmp_path)
    assert "vendor" in printed.split()[1]
    difference = worst_difference(tmp_path, expected)
    print(f"jax {printed.split()[0]} with {sorted(installed)}: largest difference {difference:.1e}")
    assert difference < 1e-6


# --- parameters ---

FORMATS = ("npz", "safetensors")


class Point(NamedTuple):
    x: Any
    label: Any


class Module(nnx.Module):
    def __init__(self, seed):
        self.linear = nnx.Linear(2, 3, rngs=nnx.Rngs(seed))
        self.scale = nnx.Param(jnp.float32(seed))


def tree_of(seed):
    rng = np.random.default_rng(seed)
    return {
        "point": Point(jnp.asarray(rng.random(3)), rng.random((2, 2))),
        "list": [seed, float(seed), jnp.array([seed > 0]), jnp.complex64(seed * 1j), jnp.int8(seed)],
        "a/b": jnp.zeros((0, 2)),
        "keys": jax.random.split(jax.random.key(seed), 3),
        "module": Module(seed),
    }


@pytest.mark.parametrize("suffix", FORMATS)
def test_params_survive_a_round_trip(tmp_path, suffix):
    path, tree = tmp_path / f"a.{suffix}", tree_of(1)
    export.save_params(path, tree)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    restored = export.load_params(str(path), tree_of(0))
    assert jax.tree.structure(restored) == jax.tree.structure(tree)
    for found, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(tree), strict=True):
        assert type(found) is type(wanted)
        assert getattr(found, "dtype", None) == getattr(wanted, "dtype", None)
    assert_close(restored, tree, 0)
    np.testing.assert_array_equal(restored["module"].linear(jnp.ones(2)), tree["module"].linear(jnp.ones(2)))


@pytest.mark.parametrize("suffix", FORMATS)
def test_params_of_an_unrolled_network(tmp_path, suffix):
    model, apply, spec = lista_case()
    export.save_params(tmp_path / f"a.{suffix}", model)
    restored = export.load_params(tmp_path / f"a.{suffix}", jax.eval_shape(lambda: lista_case()[0]))
    y = draw_like(np.random.default_rng(0), spec)
    np.testing.assert_array_equal(apply(restored, y), apply(model, y))


def test_bfloat16_is_for_safetensors(tmp_path):
    tree = {"a": jnp.array([1.0, 2.5, -3.0], jnp.bfloat16), "b": jnp.array(0.5, jnp.bfloat16)}
    export.save_params(tmp_path / "a.safetensors", tree)
    assert_close(export.load_params(tmp_path / "a.safetensors", jax.eval_shape(lambda: tree)), tree, 0)
    with pytest.raises(ValueError, match=r"for \.npz, got bfloat16 at \['a'\]\. Save them as \.safetensors"):
        export.save_params(tmp_path / "a.npz", tree)
    assert not (tmp_path / "a.npz").exists()


def test_params_in_double_precision(tmp_path):
    with jax.enable_x64(True):
        tree = jnp.array([1 / 3])
        spec = jax.eval_shape(lambda: tree)
        for suffix in FORMATS:
            export.save_params(tmp_path / f"a.{suffix}", tree)
            assert_close(export.load_params(tmp_path / f"a.{suffix}", spec), tree, 0)
    if spec.dtype == np.float64:
        with pytest.raises(ValueError, match=r"has float64 at tree.*jax_enable_x64"):
            export.load_params(tmp_path / "a.npz", spec)


def test_arrays_are_named_by_their_key_paths(tmp_path):
    tree = {"p": Point(jnp.ones(2), [np.ones(1), jax.random.key(0)])}
    export.save_params(tmp_path / "a.npz", tree)
    with np.load(tmp_path / "a.npz") as archive:
        assert sorted(archive) == ["['p'].label[0]", "['p'].label[1]:threefry2x32", "['p'].x"]


def test_other_programs_read_the_files(tmp_path):
    from safetensors.numpy import load_file

    export.save_params(tmp_path / "a.safetensors", {"w": jnp.arange(3.0)})
    np.testing.assert_array_equal(load_file(tmp_path / "a.safetensors")["['w']"], [0, 1, 2])


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": jnp.ones(3)}, r"\['a'\] has shape \(2,\) and dtype float32, `like` has \(3,\) and float32"),
        ({"a": jnp.ones(2, int)}, r"\['a'\] has shape \(2,\) and dtype float32, `like` has \(2,\) and int32"),
        ({"b": jnp.ones(2)}, r"""it lacks \["\['b'\]"\] and has \["\['a'\]"\] that `like` lacks"""),
        ({"a": jnp.ones(2), "b": 1}, r"""it lacks \["\['b'\]"\] and has \[\]"""),
        ({"a": jax.random.key(0)}, r"""it lacks \["\['a'\]:threefry2x32"\]"""),
    ],
)
def test_params_that_do_not_fit(tmp_path, suffix, like, message):
    export.save_params(tmp_path / f"a.{suffix}", {"a": jnp.ones(2)})
    with pytest.raises(ValueError, match=message):
        export.load_params(tmp_path / f"a.{suffix}", like)


@pytest.mark.parametrize("suffix", FORMATS)
def test_keys_of_another_implementation_do_not_fit(tmp_path, suffix):
    export.save_params(tmp_path / f"a.{suffix}", jax.random.key(0, impl="rbg"))
    with pytest.raises(ValueError, match=r"it lacks \['tree:unsafe_rbg'\] and has \['tree:rbg'\]"):
        export.load_params(tmp_path / f"a.{suffix}", jax.random.key(0, impl="unsafe_rbg"))


@pytest.mark.parametrize(
    ("suffix", "leaf", "message"),
    [
        ("npz", "text", r"numbers of a NumPy dtype as leaves for \.npz, got <U4 at \['a'\]\.$"),
        ("npz", object(), r"numbers of a NumPy dtype as leaves for \.npz, got object at \['a'\]\.$"),
        ("safetensors", "text", r"leaves of a dtype that \.safetensors has, got <U4 at \['a'\]\.$"),
        ("safetensors", np.ones(2, complex), r"got complex128 at \['a'\]\. Save them as \.npz\."),
    ],
)
def test_leaves_that_a_format_cannot_hold(tmp_path, suffix, leaf, message):
    with pytest.raises(ValueError, match=message):
        export.save_params(tmp_path / f"a.{suffix}", {"a": leaf})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_and_missing_params(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    with pytest.raises(FileNotFoundError):
        export.load_params(path, jnp.ones(2))
    export.save_params(path, jnp.ones(200))
    for contents in (b"", b"no zip", path.read_bytes()[:-9]):
        path.write_bytes(contents)
        with pytest.raises(ValueError, match=rf"a\.{suffix} is no complete \.{suffix} file .*Write it again"):
            export.load_params(path, jnp.ones(200))


def test_safetensors_of_a_type_that_is_not_known_here(tmp_path):
    header = b'{"a":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[0,1]}}'
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(ValueError, match=r"has the type F8_E8M0, which is none of BOOL"):
        export.load_params(tmp_path / "a.safetensors", {"a": jnp.ones(1)})


@pytest.mark.parametrize("name", ["a", "a.zip", "a.NPZ"])
def test_other_suffixes(tmp_path, name):
    for use in (export.save_params, export.load_params):
        with pytest.raises(ValueError, match=r"`path` must end in \.npz or \.safetensors, got"):
            use(tmp_path / name, jnp.ones(2))
