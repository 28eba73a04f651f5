"""The core's own costs, the rows of two cases: compilation, memory, constraints, import.

`python -m experiments.benchmarks.core` is `python -m experiments.benchmarks --case scaling overhead`.
"""

import sys

from experiments.benchmarks.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["--case", "scaling", "overhead", *sys.argv[1:]]))
