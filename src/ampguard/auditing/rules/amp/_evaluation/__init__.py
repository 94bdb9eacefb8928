"""Evaluations: who runs a model to judge it, in which mode and with which gradients."""
