"""Atelier on AWS: sets up, pushes images, rolls out, starts and stops; Terraform owns the rest."""
