"""Figures of sixgate against its peers, one program per question."""
