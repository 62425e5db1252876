"""Command line for Atelier on AWS: creates environments, pushes images, deploys, starts and stops; Terraform owns the rest."""
