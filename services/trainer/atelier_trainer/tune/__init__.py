"""Hyperparameter search on Ray Tune: one MLflow run per trial, below one parent run that holds the best settings."""
