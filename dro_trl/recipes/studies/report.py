"""A study's report: `report.json`, `report.md` with its plots, and `report.html`, which is whole in one file."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from dro_trl.data.load import load_rag_dataset
from dro_trl.files import markdown
from dro_trl.files.writing import atomic_path, write_json
from dro_trl.recipes.studies.plan import Study
from dro_trl.recipes.studies.plots import Plot, plot_curves, plot_differences, plot_scores
from dro_trl.recipes.studies.statistics import LABELS, SeededComparison
from dro_trl.recipes.studies.summary import summarise_study
from dro_trl.types import Question


def load_questions(study: Study) -> Any:
    """Return the held-out questions that rows are evaluated on: a `Dataset`, whose rows may lie in a file."""
    data = load_rag_dataset(study.eval_dataset_name, split=study.dataset_test_split)
    return data.select(range(min(study.max_eval_samples or len(data), len(data))))


def write_report(study: Study, rows: Iterable[Mapping[str, Any]], questions: Sequence[Question], command: str) -> Path:
    """Write `report.json`, `report.md`, `report.html` and `plots/` into the study's folder.

    Args:
        study: What was to be run.
        rows: What the finished rows' `row.json` hold, the first among them; gone through several times, one at a time.
        questions: The held-out questions.
        command: That was given.

    Returns:
        The path of `report.html`.
    """
    folder = Path(study.output_dir)
    report, read = summarise_study(study, rows, questions, command)
    write_json(folder / "report.json", report, allow_nan=False)
    plots = draw_plots(report, read, folder / "plots")
    environment = make_environment(folder / "plots")
    for name in ("report.md", "report.html"):
        text = environment.get_template(f"{name}.jinja").render(**describe(report), plots=plots)
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / "report.html"


def draw_plots(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, list[Plot]]:
    """Draw the plots of a report; returns them by the section that they stand in."""
    histories = {m: [row["log_history"] for row in rows if row["method"] == m] for m in report["costs"]}
    first = next(iter(histories))
    differences = [comparison for comparison in _comparisons(report) if comparison.baseline == first]
    return {
        "scores": plot_scores(report["systems"], shown_metrics(report)[1:], folder),
        "differences": plot_differences(differences, folder) if differences else [],
        "curves": plot_curves(histories, folder),
    }


def describe(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the templates show: the report, and what is read off it."""
    comparisons = _comparisons(report)
    first = next(iter(report["costs"]))
    groups = [
        (f"against {first}, the first method", [c for c in comparisons if c.baseline == first]),
        (
            "against the retriever's order, read by the untrained generator",
            [c for c in comparisons if c.baseline == "start, retriever order"],
        ),
        (
            "against the retriever's order, read by the method's own trained generator",
            [c for c in comparisons if c.baseline == f"{c.system}, retriever order"],
        ),
    ]
    return {
        "report": report,
        "first": first,
        "groups": [group for group in groups if group[1]],
        "metrics": shown_metrics(report),
        "some": comparisons[0],
        "recipe": yaml.safe_dump(report["recipe"], sort_keys=False, allow_unicode=True).strip(),
    }


def shown_metrics(report: Mapping[str, Any]) -> list[str]:
    """Return the metrics of the tables: recall at each depth, EM and F1."""
    system = next(iter(report["systems"].values()))
    return [name for name in system if name.startswith("recall@") or name in LABELS]


def make_environment(plots: Path) -> Environment:
    """Return the templates' environment, with the filters that they use.

    Args:
        plots: Folder of the images that are put into the page.
    """
    environment = Environment(
        loader=PackageLoader("dro_trl.recipes.studies", "templates"),
        autoescape=lambda name: bool(name and name.endswith(".html.jinja")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "signed": lambda value: f"{value:+.3f}",
        "interval": lambda value: "–" if value is None else f"[{value[0]:+.3f}, {value[1]:+.3f}]",
        "gigabytes": lambda value: f"{value / 1e9:.2f} GB",
        "counts": lambda values: " or ".join(f"{value:,}" for value in values),
        "label": lambda metric: LABELS.get(metric, metric),
        "settings": lambda given: ", ".join(f"{k}: {_plain(v)}" for k, v in given.items()) or "the recipe as it is",
        "text": markdown.text,
        "label_text": markdown.label,
        "block": markdown.block,
        "short": lambda text: text if len(text) <= 160 else f"{text[:159]}…",
        "data_uri": lambda name: f"data:image/png;base64,{base64.b64encode((plots / name).read_bytes()).decode()}",
    }
    return environment


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _plain(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def _comparisons(report: Mapping[str, Any]) -> list[SeededComparison]:
    return [
        SeededComparison(**{name: c[name] for name in SeededComparison.__dataclass_fields__})
        for c in report["comparisons"]
    ]
