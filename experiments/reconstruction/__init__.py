"""`python -m experiments reconstruct`: inverse problems, with a learned regularizer and with total variation."""

from experiments.reconstruction.command import ReconstructCommand as ReconstructCommand
