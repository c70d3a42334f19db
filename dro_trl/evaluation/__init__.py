"""Scores of systems on the same questions, their differences with bootstrap intervals, tables, JSON and plots.

systems, evaluator, parts    who chooses passages; a pair evaluated, in parts that are kept
scores                       recall, MRR, nDCG, EM, F1 of predictions
bootstrap, comparison        intervals, and paired differences
groups                       questions by what a column of theirs holds
report, tables, plots        printed tables, JSON, Parquet and CSV, figures
"""
