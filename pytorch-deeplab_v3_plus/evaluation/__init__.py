"""Scores of a network on a data set, by the original's protocol and PASCAL VOC's, and their report."""

from evaluation.protocols import Protocol, evaluate, evaluate_split
from evaluation.report import evaluate_and_report, write_report
from evaluation.scores import score_table

__all__ = ["Protocol", "evaluate", "evaluate_and_report", "evaluate_split", "score_table", "write_report"]
