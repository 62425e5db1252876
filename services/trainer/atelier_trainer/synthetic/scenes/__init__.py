"""Simple scenes drawn in two styles from one geometry: the images Atelier learns a style from.

world      what is in a scene: things, their places, the ground
captions   what a scene is called, in a small closed vocabulary
shapes     a thing as style-free outlines (shapes_animals, _figures, _nature and _objects hold the kinds)
backdrop   the ground and sky of a scene, style-free as well
paint      the `colour` style
pencil     the `sketch` style
dataset    numbered images with captions on disk, in the layout of an image folder
"""
