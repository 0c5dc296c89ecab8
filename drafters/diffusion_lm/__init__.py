"""Masked-diffusion language models as drafters, and the training of one on the target's weights."""
