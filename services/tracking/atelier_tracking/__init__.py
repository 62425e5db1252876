"""Start-up of the tracking image: settings checked, nginx's files written, MLflow and nginx run together."""
