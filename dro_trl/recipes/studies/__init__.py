"""`dro-trl compare`: methods by seeds on one grid, and a report of it.

plan, parsing         a study, and the recipe that describes it
running, progress     its rows, each a training and an evaluation, and how far they are
statistics, summary   intervals over seeds and questions, tables
plots, report         figures, Markdown and HTML (`templates/`)
"""
