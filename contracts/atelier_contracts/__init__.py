"""What crosses a boundary between services: manifests, requests, responses, names. pydantic and the standard library only."""
