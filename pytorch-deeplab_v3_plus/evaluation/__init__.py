"""Scores, protocols and reports."""

from evaluation.protocols import Protocol, evaluate, evaluate_split
from evaluation.report import write_report
from evaluation.scores import score_table

__all__ = ["Protocol", "evaluate", "evaluate_split", "score_table", "write_report"]
