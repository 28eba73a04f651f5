"""Long runs: the training loop, checkpoints, many devices."""

# the loop
from unroll_jax.training._evaluation import Best as Best
from unroll_jax.training._evaluation import Evaluate as Evaluate
from unroll_jax.training._evaluation import evaluator as evaluator
from unroll_jax.training._fit import Fitted as Fitted
from unroll_jax.training._fit import NonFiniteError as NonFiniteError
from unroll_jax.training._fit import fit as fit
from unroll_jax.training._fit import unconstrained as unconstrained

# what goes into it
from unroll_jax.training.batches import Batches as Batches
from unroll_jax.training.batches import Minibatches as Minibatches
from unroll_jax.training.callbacks import Callback as Callback
from unroll_jax.training.callbacks import Event as Event
from unroll_jax.training.callbacks import json_lines as json_lines
from unroll_jax.training.callbacks import progress_bar as progress_bar
from unroll_jax.training.callbacks import tensorboard as tensorboard
from unroll_jax.training.checkpoint import CheckpointError as CheckpointError
from unroll_jax.training.checkpoint import Checkpoints as Checkpoints
from unroll_jax.training.checkpoint import Restored as Restored
from unroll_jax.training.sharding import DataParallel as DataParallel
from unroll_jax.training.sharding import data_parallel as data_parallel
