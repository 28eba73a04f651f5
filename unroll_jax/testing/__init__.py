"""Checks of your own parts: each raises `AssertionError`, and says what is wrong.

Plain functions, for any test runner. They draw from a fixed key, so they find the same every time.
"""

from unroll_jax.testing.adjoint import check_adjoint as check_adjoint
from unroll_jax.testing.proximal import check_prox as check_prox
from unroll_jax.testing.algorithm import check_algorithm as check_algorithm
