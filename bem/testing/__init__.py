"""For tests and examples: tiny random bases as real folders, and the table of what is supported."""

from bem.testing.tiny_base import FAMILIES, SPECIAL_TOKENS, byte_tokenizer, write_tiny_base

__all__ = ["FAMILIES", "SPECIAL_TOKENS", "byte_tokenizer", "write_tiny_base"]
