"""REST service that moves aliases of model versions, and keeps every decision."""
