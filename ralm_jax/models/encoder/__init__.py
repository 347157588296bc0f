"""Encoders: BERT's layers and those of its kin, in one frame.

transformer  the frame: embeddings, layers, the last of which may do less; BERT's layers
rotary       layers that positions turn: ModernBERT's and NomicBERT's
layers       what both are made of
attention    cuDNN's attention in the place of theirs

In: token ids and segment types, int32 [B,S].
Out: states [B,S,D], or of the positions wanted [B,M,D].
Imports: errors, settings, models.config.
"""
