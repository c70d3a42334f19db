"""Scores of systems on the same questions, their differences with bootstrap intervals, tables, JSON and plots."""
