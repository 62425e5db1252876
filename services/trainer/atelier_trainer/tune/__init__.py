"""Searching for settings: many trainings on Ray, one MLflow run each below one parent, the best written down."""
