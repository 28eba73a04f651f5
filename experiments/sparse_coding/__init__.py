"""LISTA trained to descend at every layer, on natural image patches (arXiv 2312.15788)."""

from experiments.sparse_coding.command import SparseCodingCommand as SparseCodingCommand
