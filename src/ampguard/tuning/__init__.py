"""Tuning: which hyperparameters are best, over the same Task and training as every other verb. Optuna searches."""
