"""The tiny base model: a complete Stable Diffusion pipeline of 7.5 M parameters, trained from nothing on our own scenes.

It exists so that the whole loop (train, promote, draw) runs for real on two cores without a download. `architecture` says
what it is made of, `fit_vae` and `fit_unet` train it, `assemble` writes the diffusers folder.
"""
