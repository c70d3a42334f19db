"""`dro-trl serve`: a trained pair behind HTTP."""

import contextlib
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dro_trl.cli import options
from dro_trl.cli.ask import BatchSize, NumCandidates
from dro_trl.cli.retrieve import K1, B, Prebuilt

if TYPE_CHECKING:
    from dro_trl.pipeline import RAGPipeline
    from dro_trl.retrieval.pyserini import PyseriniRetriever
    from dro_trl.selector import Selector

IndexDir = Annotated[
    Path | None, typer.Option("--index_dir", help="Folder of an index, for questions that come without passages.")
]
SelectorOnly = Annotated[
    bool, typer.Option("--selector_only", help="Rank alone: the generator is not loaded, and nothing is answered.")
]
Host = Annotated[str, typer.Option("--host", help="Address to listen at; 0.0.0.0 for all of this machine.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; any that is free for 0.")]
MaxNewTokens = Annotated[
    int, typer.Option("--max_new_tokens", min=1, help="Longest answer, in tokens, where a request does not say.")
]
MaxPassages = Annotated[int, typer.Option("--max_passages", min=1, help="Passages that a request may hold.")]
MaxCharacters = Annotated[
    int, typer.Option("--max_characters", min=1, help="Characters that a question or a passage may have.")
]
MaxBody = Annotated[int, typer.Option("--max_body_bytes", min=1, help="Bytes that a request may have.")]
MaxWaiting = Annotated[int, typer.Option("--max_waiting", min=1, help="Requests that may wait for the models.")]


def main(
    model: options.Model,
    index_dir: IndexDir = None,
    prebuilt: Prebuilt = None,
    selector_only: SelectorOnly = False,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    num_candidates: NumCandidates = None,
    num_selected: options.NumSelected = None,
    k1: K1 = 0.9,
    b: B = 0.4,
    window_size: options.WindowSize = None,
    window_stride: options.WindowStride = None,
    batch_size: BatchSize = 8,
    max_new_tokens: MaxNewTokens = 32,
    max_thinking_tokens: options.MaxThinkingTokens = None,
    max_passages: MaxPassages = 1000,
    max_characters: MaxCharacters = 20_000,
    max_body_bytes: MaxBody = 16 * 2**20,
    max_waiting: MaxWaiting = 256,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Serve /rank, /answer, /v1/rerank and /health until it is interrupted or terminated."""
    with contextlib.ExitStack() as held:
        address = held.enter_context(bound(host, port))  # Before the models are loaded.
        check_options(index_dir, prebuilt, selector_only)
        of_pair: dict[str, Any] = {"device": device, "dtype": dtype, "revision": revision}
        of_pair |= {"window_size": window_size, "window_stride": window_stride, "trust_remote_code": trust_remote_code}
        if selector_only:
            found = load_selector(model, of_pair)
        else:
            retriever = open_index(index_dir, prebuilt, k1, b)
            of_pair |= {"num_candidates": num_candidates, "num_selected": num_selected}
            of_pair["max_thinking_tokens"] = max_thinking_tokens
            found = load_pair(model, held.enter_context(retriever) if retriever else None, of_pair)

        from dro_trl.serving.app import create_app
        from dro_trl.serving.limits import Limits

        # An answer may be as long as the server's own.
        longest = max(max_new_tokens, Limits.new_tokens)
        limits = Limits(max_passages, max_characters, longest, max_body_bytes, max_waiting)
        listen(create_app(*found, str(model), limits, batch_size, max_new_tokens), address)


def check_options(index_dir: Path | None, prebuilt: str | None, selector_only: bool) -> None:
    """Refuse options that do not go together, before anything is loaded.

    Raises:
        ValueError: If two indexes are given, or one where nothing is answered.
        ImportError: If the libraries of the extra are missing.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError(f"dro-trl serve needs {error.name}: pip install 'dro-trl[serve]'") from error
    if index_dir is not None and prebuilt is not None:
        raise ValueError(f"give one of --index_dir and --prebuilt, not --index_dir={index_dir} --prebuilt={prebuilt}")
    if selector_only and (index_dir or prebuilt):
        raise ValueError("--selector_only answers nothing, so no passages are looked for; leave out one of the two")


@contextlib.contextmanager
def bound(host: str, port: int) -> Any:
    """Hold a socket at an address, which is not listened at yet.

    Raises:
        OSError: If it is not to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((host, port))
        except OSError as error:
            raise OSError(f"--host {host} --port {port}: {error.strerror}; give others") from error
        yield held


def load_selector(model: Path, of_pair: dict[str, Any]) -> "tuple[Selector, RAGPipeline | None]":
    """Return the selector alone."""
    from dro_trl.selector import Selector

    return Selector.from_pretrained(model, **of_pair), None


def load_pair(
    model: Path, retriever: "PyseriniRetriever | None", of_pair: dict[str, Any]
) -> "tuple[Selector, RAGPipeline | None]":
    """Return the pair, and its selector."""
    from dro_trl.pipeline import RAGPipeline

    pipeline = RAGPipeline.from_pretrained(model, retriever, **of_pair)
    return pipeline.ranker, pipeline


def open_index(index_dir: Path | None, prebuilt: str | None, k1: float, b: float) -> "PyseriniRetriever | None":
    """Return a retriever over the index that is given, if one is."""
    from dro_trl.retrieval.opening import passage_source

    if index_dir is None and prebuilt is None:
        return None
    found: Any = passage_source(index_dir, prebuilt, None, k1, b, None, None, None)
    return found  # type: ignore[no-any-return]


def listen(app: Any, address: socket.socket) -> None:
    """Answer requests until the process is told to stop, and then those that have come."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            host, port = address.getsockname()[:2]
            typer.echo(f"Serving on http://{f'[{host}]' if ':' in host else host}:{port}", err=True)

    server = Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=60))
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # uvicorn raises it again once all is answered.
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[address])
    typer.echo("Stopped", err=True)
