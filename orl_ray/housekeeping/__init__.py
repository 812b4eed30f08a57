"""The life of a store beside its runs: collecting garbage, taking images down."""
