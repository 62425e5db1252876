"""The trainer: data sets, training jobs and exports."""
