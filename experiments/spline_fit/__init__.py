"""Splines under slope constraints in one dimension: against the exact optimum, and in networks (arXiv 2408.13114)."""

from experiments.spline_fit.command import SplineFitCommand as SplineFitCommand
