"""Shards of the index, exact neighbours of images, and the pairs of their regions."""
