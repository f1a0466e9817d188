"""Adapters side by side: how large their deltas are, how they meet, how they are held small."""
