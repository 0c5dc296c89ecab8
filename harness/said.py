"""A mark for flags whose help says itself what happens without them."""

from tyro.conf import arg

SAID = arg(help_behavior_hint="")
"""Keeps "(default: None)" from standing behind such a sentence."""
