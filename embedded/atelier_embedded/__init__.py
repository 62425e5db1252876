"""All services on one machine with Python alone: trains an adapter, promotes it, generates images."""
