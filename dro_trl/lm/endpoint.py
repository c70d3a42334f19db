"""A generator behind an OpenAI-compatible server, such as vLLM's, SGLang's, llama.cpp's or `transformers serve`."""

import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from dro_trl.lm.tokens import Tokenizer

logger = logging.getLogger(__name__)

TRIES = 3
"""How often a server that is busy or away is asked."""
_PASSING = (408, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""


class GeneratorEndpoint:
    """Continues prompts by `/v1/completions`, greedily, and says how likely answers are where the server does.

    Prompts go there as token ids, so that the model reads what it read in training; to a server that takes text alone
    they go as text. The key is `OPENAI_API_KEY`, where that is set.

    Args:
        url: Of the server, such as `http://localhost:8000/v1`.
        model: What the server calls the model; the only one that it has where None.
        concurrency: Requests at a time; servers read them together.
        timeout: Seconds that a request may take.

    Raises:
        ValueError: If the URL is none of HTTP, or the server has several models or none, and none is named.
        ConnectionError: If it cannot be reached, or refuses.
    """

    def __init__(self, url: str, model: str | None = None, concurrency: int = 16, timeout: float = 600.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"generator_url={url!r} is no address of HTTP; give one such as http://localhost:8000/v1")
        self.url, self.concurrency, self.timeout = url.rstrip("/"), concurrency, timeout
        self.takes_tokens = True
        self.model = model or self._only_model()

    def _only_model(self) -> str:
        try:
            names = [str(one["id"]) for one in self._ask("/models")["data"]]
        except (ConnectionError, KeyError, TypeError) as error:
            raise ConnectionError(f"{self.url}/models names no models ({error}); give generator_model") from error
        if len(names) != 1:
            raise ValueError(
                f"generator_url={self.url} serves {', '.join(names) or 'no model that it names'}; say which by "
                "generator_model"
            )
        return names[0]

    def write(self, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
        """Return how the model goes on after each prompt.

        Args:
            tokenizer: The generator's.
            prompts: Token ids.
            max_new_tokens: Longest continuation, in tokens.

        Raises:
            ConnectionError: If the server cannot be reached, or refuses.
        """
        if not prompts:
            return []
        try:
            first = self._complete(tokenizer, prompts[0], max_new_tokens)
        except _RefusedError:
            if not self.takes_tokens:
                raise
            self.takes_tokens = False
            first = self._complete(tokenizer, prompts[0], max_new_tokens)
            logger.warning(f"{self.url} takes no token ids: prompts go there as text, which it may tokenize otherwise")
        with ThreadPoolExecutor(self.concurrency) as pool:
            others = list(pool.map(lambda ids: self._complete(tokenizer, ids, max_new_tokens), prompts[1:]))
        return [first, *others]

    def answer_logps(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]]
    ) -> tuple[Tensor, Tensor]:
        """Return the log-probability of every token of every answer, and which of them are there, both (B, A, T).

        Args:
            prompts: B lists of token ids.
            answers: B lists of up to A lists of up to T token ids.

        Raises:
            ConnectionError: If the server cannot be reached, or does not say how likely a prompt's tokens are.
        """
        asked = [(list(p), list(a)) for p, aliases in zip(prompts, answers, strict=True) for a in aliases]
        with ThreadPoolExecutor(self.concurrency) as pool:
            found = iter(list(pool.map(lambda pair: self._prompt_logps(*pair), asked)))
        shape = len(prompts), max(map(len, answers)), max(len(ids) for _, ids in asked)
        logps, mask = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
        for row, aliases in enumerate(answers):
            for alias, ids in enumerate(aliases):
                logps[row, alias, : len(ids)] = torch.tensor(next(found))
                mask[row, alias, : len(ids)] = True
        return logps, mask

    def _prompt_logps(self, prompt: list[int], answer: list[int]) -> list[float]:
        """Return the log-probability of each token of an answer, as vLLM says them of the tokens of a prompt."""
        body = {"model": self.model, "prompt": [*prompt, *answer], "max_tokens": 1, "temperature": 0.0}
        found = self._ask("/completions", {**body, "prompt_logprobs": 0})
        try:
            said = found["choices"][0]["prompt_logprobs"]
            if len(said) != len(prompt) + len(answer):
                raise ValueError(f"{len(said)} entries of {len(prompt) + len(answer)} tokens")
            logps = [
                float(by_token[str(token)]["logprob"])
                for token, by_token in zip(answer, said[len(prompt) :], strict=True)
            ]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ConnectionError(
                f"{self.url}/completions does not say how likely a prompt's tokens are (prompt_logprobs, which vLLM's "
                f"has: {type(error).__name__} {error}); leave generator_url out, or reward generated answers alone"
            ) from error
        return logps

    def _complete(self, tokenizer: Tokenizer, ids: Sequence[int], max_new_tokens: int) -> str:
        prompt: Any = list(ids)
        if not self.takes_tokens:
            added = tokenizer("")["input_ids"]  # Which the server's tokenizer writes by itself.
            begins = prompt[: len(added)] == added
            prompt = tokenizer.decode(prompt[len(added) if begins else 0 :], clean_up_tokenization_spaces=False)
        body = {"model": self.model, "prompt": prompt, "max_tokens": max_new_tokens, "temperature": 0.0}
        found = self._ask("/completions", body)
        try:
            return str(found["choices"][0]["text"])
        except (KeyError, IndexError, TypeError) as error:
            raise ConnectionError(f"{self.url}/completions answered {str(found)[:200]!r}, without a text") from error

    def _ask(self, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        for tried in range(1, TRIES + 1):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                said = f"{self.url}{path} answers {error.code}: {_in_a_line(error.read())}"
                if error.code not in _PASSING:
                    raise _RefusedError(said) from error
            except (OSError, ValueError) as error:  # No connection, one that broke, or no JSON.
                said = f"{self.url}{path} cannot be read: {getattr(error, 'reason', error)}"
            if tried < TRIES:
                time.sleep(tried)
        raise ConnectionError(f"{said} (asked {TRIES} times)")


class _RefusedError(ConnectionError):
    """What the server will not do, however often it is asked."""


def _in_a_line(body: bytes) -> str:
    return " ".join(body.decode(errors="replace").split())[:300]
