"""Write the golden checkpoint of the present format beside this file; done once for each released format."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_checkpoint import tree_of

from unroll_jax.training import Checkpoints
from unroll_jax.training.checkpoint import FORMAT_VERSION

if __name__ == "__main__":  # pytest imports it to look for examples
    folder = Path(__file__).parent / f"checkpoint-{FORMAT_VERSION}"
    Checkpoints(folder, config={"rate": 0.5}).save(3, tree_of(7), {"best": None})
