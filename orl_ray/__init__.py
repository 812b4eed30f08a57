"""ORL (object-level representation learning from scene images) as one Ray application."""

__version__ = "0.1.0"
