"""Classifiers that judge generated images: which kinds of thing they show, and in which style."""
