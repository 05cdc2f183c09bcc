"""Scores of a network on a data set, by the original's protocol and PASCAL VOC's, and their report."""

from evaluation.protocols import Protocol, evaluate, evaluate_split, nothing_to_score
from evaluation.report import describe, evaluate_and_report, report_folder, warn_of_others
from evaluation.scores import score_table

__all__ = [
    "Protocol",
    "describe",
    "evaluate",
    "evaluate_and_report",
    "evaluate_split",
    "nothing_to_score",
    "report_folder",
    "score_table",
    "warn_of_others",
]
