"""Simple scenes in two styles, drawn from the same geometry: the images of the demo's data set and base model."""
