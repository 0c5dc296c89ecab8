"""Block-diffusion drafters: one forward pass fills a block of masks (DFlash, arXiv 2602.06036)."""
