"""Measurement of speculative decoding: one loop, one counter, one clock for every method."""
