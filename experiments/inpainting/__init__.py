"""GLOW-Prox: an unrolled network with a normalizing flow in every layer, trained to descend (arXiv 2312.15788)."""

from experiments.inpainting.command import InpaintingCommand as InpaintingCommand
