"""`dro-trl compare`: the methods and seeds of a study, trained one by one and compared in a report."""

from pathlib import Path
from typing import Annotated

import typer

from dro_trl.cli import options


def main(
    context: typer.Context,
    report_only: Annotated[
        bool, typer.Option("--report_only", help="Run nothing; report on the rows that are finished.")
    ] = False,
    help_all: options.HelpAll = False,
) -> None:
    """Train and compare methods: --config study.yaml, and --NAME VALUE for any line of it. Goes on where it was."""
    import shlex

    from dro_trl.cli.index import cleaning_up_when_terminated
    from dro_trl.files.folders import check_unwritten
    from dro_trl.options.masking import masked_words
    from dro_trl.recipes.studies.parsing import parse_study

    study = parse_study(context.args, there=True)  # Before torch is imported, as far as that goes.

    from rich.console import Console

    from dro_trl.files.writing import load_object
    from dro_trl.recipes.studies.printing import print_study
    from dro_trl.recipes.studies.report import load_questions, write_report
    from dro_trl.recipes.studies.running import finished_rows, run_study

    check_unwritten(Path(study.output_dir), ("report.md", "report.html", "plots"), ("report.json",))
    questions = load_questions(study)  # Before training, so that a mistake in them costs no time.
    with cleaning_up_when_terminated():
        rows = finished_rows(study) if report_only else run_study(study)
    command = shlex.join(["dro-trl", "compare", *masked_words(context.args)])
    page = write_report(study, rows, questions, command)
    print_study(load_object(page.with_suffix(".json"), "run the study again"), Console())
    print(f"Results: {page.with_suffix('.json')}\nReport: {page}, {page.with_suffix('.md')}")
