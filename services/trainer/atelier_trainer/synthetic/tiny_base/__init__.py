"""The tiny base model: a complete Stable Diffusion pipeline of 7.5 M parameters, trained from scratch on synthetic scenes.

With it, training, promotion and inference run for real on two cores without a download.
"""
