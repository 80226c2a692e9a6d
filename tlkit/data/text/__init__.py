"""Texts as tokens or as bags of words."""
