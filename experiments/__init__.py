"""Experiments with unroll_jax: `python -m experiments` from the repository root lists them."""
