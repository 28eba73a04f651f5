"""Proximal operators, `prox(x, strength)`: the minimizer over z of strength * g(z) + ||z - x||^2 / 2."""

from unroll_jax.prox.shrinkage import soft_threshold as soft_threshold
from unroll_jax.prox.sets import box as box
from unroll_jax.prox.sets import non_negative as non_negative
