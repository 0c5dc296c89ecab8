"""A shallow student of the target, and its trainer."""
