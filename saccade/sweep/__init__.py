"""Hyperparameter search: a sweep spec becomes an Optuna study, and each of its trials tracked runs (docs/sweeps.md)."""
