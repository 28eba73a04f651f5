"""What the spline fit experiment can be told."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of one run. Functions live on [-1, 1]."""

    # single splines
    num_sites: int = 60
    noise: float = 0.05  # standard deviation, of samples
    tv2_weights: tuple[float, ...] = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    tolerance: float = 1e-6  # relative change of the slopes, where proximal gradient stops
    max_iterations: int = 10_000
    num_steps: int = 5_000  # of Adam
    learning_rate: float = 1e-2
    pruning_cost: float = 1e-4  # by how much pruning may raise the objective, relative to it
    # networks
    num_layers: int = 4
    width: int = 10
    num_knots: int = 21  # of each learned activation, on [-1, 1]
    network_tv2_weight: float = 1e-6
    num_train: int = 200
    num_held_out: int = 1_001
    num_seeds: int = 3  # networks per target and activation
    num_network_steps: int = 2_000
    network_rates: tuple[float, ...] = (1e-2, 3e-2)  # all are trained with; the training error decides
    network_pruning_cost: float = 0.05  # as `pruning_cost`, of the training error
