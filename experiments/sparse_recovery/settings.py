"""What the sparse recovery experiment can be told."""

import dataclasses

SNRS = ("inf", "40", "30", "20")


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of one run; the defaults are the problem of Open-L2O (Chen et al. 2022) with shorter trainings.

    There networks are trained layer by layer until nothing improves any more, on 51,200 fixed codes.
    """

    # the problem
    num_measurements: int = 250
    num_atoms: int = 500
    share: float = 0.1  # of a code's entries that are not zero; these are standard normal
    snrs: tuple[str, ...] = SNRS  # in dB
    # the networks
    num_layers: int = 16
    support_growth: float = 0.012
    support_limit: float = 0.13
    # training
    num_steps: int = 400
    batch_size: int = 64
    matrix_rate: float = 3e-4  # peak learning rate of what has two axes and more
    scalar_rate: float = 0.03  # of thresholds, step sizes and gates
    last_layer_share: float = 0.3  # of the steps, in which the last layer alone counts
    steps_per_dispatch: int = 10
    checkpoint_every: int = 200
    # the descent constraints
    train_rate: float = 0.005  # by how much every layer must lower the mean distance
    tail_rate: float = 0.0  # by how much it must lower nearly every example's
    tail_allowance: float = 0.01  # the mean excess that is tolerated, as a share of the distance before the layer
    dual_rate: float = 0.3
    penalty: float = 3.0
    # evaluation
    num_validation: int = 128  # chooses the l1 weights of what is not trained
    num_test: int = 1_024
    l1_weights: tuple[float, ...] = (0.003, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)
    num_converged: int = 500  # steps of FISTA until it has converged
    rate: float = 0.0  # of the certificate of descent
    confidence: float = 0.95
