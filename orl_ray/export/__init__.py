"""Trained backbones as files of other libraries, each with a card that says where the weights come from."""
