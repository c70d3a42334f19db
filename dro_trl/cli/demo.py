"""`dro-trl demo`: a page to look at a pair, before and after training."""

import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from dro_trl.cli import options
from dro_trl.cli.ask import MaxNewTokens, NumCandidates
from dro_trl.cli.retrieve import K1, B, IndexDir, Prebuilt
from dro_trl.cli.serve import Host

Start = Annotated[bool, typer.Option("--start/--no_start", help="Also show the pair that training started from.")]
Port = Annotated[int, typer.Option("--port", min=1, max=65535, help="Port.")]


def main(
    model: options.Model,
    index_dir: IndexDir = None,
    prebuilt: Prebuilt = None,
    start: Start = True,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    num_candidates: NumCandidates = None,
    num_selected: options.NumSelected = None,
    k1: K1 = 0.9,
    b: B = 0.4,
    max_new_tokens: MaxNewTokens = 32,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Show a page in the browser: a question, its candidates in each order, the answers before and after training."""
    check_options(index_dir, prebuilt)

    from dro_trl.models.names import pair_folder
    from dro_trl.models.saving import read_config, start_paths
    from dro_trl.pipeline import RAGPipeline
    from dro_trl.retrieval.opening import passage_source
    from dro_trl.serving.demo import create_demo

    folder = pair_folder(model, revision)
    config = read_config(folder)  # Before the index is opened, which starts a Java.
    if start:
        start_paths(folder, config)
    of_pair: dict[str, Any] = {"device": device, "dtype": dtype, "num_selected": num_selected}
    of_pair["trust_remote_code"] = trust_remote_code
    with passage_source(index_dir, prebuilt, None, k1, b, None, None, None) as retriever:
        trained = RAGPipeline.from_pretrained(folder, retriever, num_candidates, **of_pair)
        before = RAGPipeline.from_start(folder, **of_pair) if start else None
        show(create_demo(trained, before, str(model), max_new_tokens), host, port)


def check_options(index_dir: Path | None, prebuilt: str | None) -> None:
    """Refuse what is missing, before anything is loaded.

    Raises:
        ValueError: If no index is given, or two are.
        ImportError: If the library of the extra is missing.
    """
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError(f"dro-trl demo needs {error.name}: pip install 'dro-trl[demo]'") from error
    if (index_dir is None) == (prebuilt is None):
        raise ValueError(f"give one of --index_dir and --prebuilt, not --index_dir={index_dir} --prebuilt={prebuilt}")


def show(page: Any, host: str, port: int) -> None:
    """Serve the page until the process is told to stop.

    Raises:
        OSError: If the port is taken.
    """
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopped.set())
    page.launch(server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False)
    typer.echo(f"Showing {page.local_url}", err=True)
    stopped.wait()
    page.close(verbose=False)
    typer.echo("Stopped", err=True)
