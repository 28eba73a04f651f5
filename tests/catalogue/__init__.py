"""One row per operator, proximal operator and algorithm: a new member joins the generic tests by its row.

A row's name starts with the public name that it stands for; a public name without a row fails a test.
Factories draw from a NumPy generator: no compilation, and the same numbers in every precision.
"""

from catalogue import (
    algorithms,
    gradient_methods,
    imaging_operators,
    operators,
    proximal,
    sparse_coders,
    splitting_methods,
    transforms,
)
from catalogue.rows import name_of as name_of

OPERATORS = (*operators.OPERATORS, *imaging_operators.OPERATORS, *transforms.OPERATORS)
PROXES = proximal.PROXES
ALGORITHMS = (
    *algorithms.ALGORITHMS,
    *gradient_methods.ALGORITHMS,
    *splitting_methods.ALGORITHMS,
    *sparse_coders.ALGORITHMS,
)
