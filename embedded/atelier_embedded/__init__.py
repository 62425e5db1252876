"""The whole loop on one machine with nothing but Python: starts the services, trains, promotes, draws."""
