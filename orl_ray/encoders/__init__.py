"""Backbones, projector and predictor: the networks, their initialisation, and weights in and out."""
