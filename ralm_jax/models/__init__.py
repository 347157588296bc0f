"""Linen modules: the encoder, the retriever's towers, readers and scorer, and parameters to begin with.

In: token ids and segment types, int32 [B,L], [B,P] or [B,S].
Out: vectors [B,E], logits and scores, float32.
Imports: errors, settings, batches.
"""
