"""Sparse codes from few measurements: the LISTA family on the problem that it is compared on."""

from experiments.sparse_recovery.command import SparseRecoveryCommand as SparseRecoveryCommand
