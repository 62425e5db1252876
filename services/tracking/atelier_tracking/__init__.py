"""The tracking image: checks settings, writes nginx's configuration, runs nginx and MLflow."""
