"""One row per operator, proximal operator and algorithm: a new member joins the generic tests by its row.

A row's name starts with the public name that it stands for; a public name without a row fails a test.
Factories draw from a NumPy generator: no compilation, and the same numbers in every precision.
"""

from catalogue.algorithms import ALGORITHMS as ALGORITHMS
from catalogue.operators import OPERATORS as OPERATORS
from catalogue.proximal import PROXES as PROXES
from catalogue.rows import name_of as name_of
