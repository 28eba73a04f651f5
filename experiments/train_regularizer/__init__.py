"""`python -m experiments train-regularizer`: a convex or weakly convex regularizer learned from images."""

from experiments.train_regularizer.command import TrainRegularizerCommand as TrainRegularizerCommand
