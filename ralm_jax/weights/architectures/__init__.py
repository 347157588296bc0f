"""Encoders of transformers that are read and written: a file for each kind, with its names in one place.

kind   what is to be said of each         known  which there are

In: a config.json; the sizes of an encoder of ours.
Out: an EncoderConfig; a config.json; the table of tensors and leaves.
Imports: models, and layout, model_folder and tensors of weights.
"""
