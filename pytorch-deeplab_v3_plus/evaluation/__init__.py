"""Scores, protocols and reports."""
