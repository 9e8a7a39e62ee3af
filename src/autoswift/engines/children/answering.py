"""Greedy answers and log-likelihoods with swift's own template: shared by the plug-in and the worker.

It is loaded by file path next to `swift_plugin.py` and `worker.py`, in an environment without autoswift.
Prompts are encoded by the swift template that training uses, so the token ids are those of training.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

Row = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One greedy answer; `tokens` counts the end token when there is one."""

    text: str
    tokens: int
    stopped: bool
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The answer as it goes over the channel."""
        return {"text": self.text, "tokens": self.tokens, "stopped": self.stopped, "seconds": self.seconds}


@dataclass(frozen=True)
class Score:
    """Sum of the negative log-likelihood of one answer, and the number of its tokens."""

    nll_sum: float
    tokens: int


class _Deadline(StoppingCriteria):  # type: ignore[misc]
    """Ends a generation at a moment of the wall clock."""

    def __init__(self, moment: float) -> None:
        self.moment = moment

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.full((input_ids.shape[0],), time.time() > self.moment, device=input_ids.device)


def prompt_of(row: Row) -> Row:
    """The row without its last message when that is the assistant's: what the model is asked."""
    messages = deepcopy(row["messages"])
    if messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        raise ValueError("a row must end with a user message, before its reference answer")
    rest = {key: value for key, value in row.items() if key in ("tools", "images", "videos", "audios")}
    return {"messages": messages, **deepcopy(rest)}


def stop_ids(template: Any) -> list[int]:
    """The token ids that end an answer: the end-of-text token and the template's one-token stop words."""
    found = {template.tokenizer.eos_token_id, template.template_meta.stop_token_id}
    for word in template.template_meta.stop_words:
        ids = word if isinstance(word, list) else template.tokenizer.encode(word, add_special_tokens=False)
        if len(ids) == 1:
            found.add(ids[0])
    return sorted(token for token in found if isinstance(token, int))


@contextmanager
def inference(model: Any, template: Any) -> Iterator[None]:
    """Evaluation mode, the template's inference mode, no length limit and no packing; restored after."""
    training, limit = model.training, template.max_length
    packing, padding_free = template.packing, template.padding_free
    model.eval()
    template.max_length, template.packing, template.padding_free = None, False, False
    try:
        with template.generate_context(), torch.inference_mode():
            yield
    finally:
        template.max_length, template.packing, template.padding_free = limit, packing, padding_free
        model.train(training)


def encode_prompts(template: Any, rows: list[Row]) -> list[Row]:
    """What swift's template makes of each prompt for inference (call it inside `inference`)."""
    return [template.encode(prompt_of(row)) for row in rows]


def prompt_ids(model: Any, template: Any, rows: list[Row]) -> list[list[int]]:
    """The token ids of each prompt."""
    with inference(model, template):
        return [encoded["input_ids"] for encoded in encode_prompts(template, rows)]


def encode_answer(template: Any, row: Row) -> tuple[list[int], list[bool]]:
    """Token ids of the whole row as in training, and which of them belong to its last answer."""
    prompt = template.encode(prompt_of(row))["input_ids"]
    mode = template.mode
    template.set_mode("train")
    try:
        encoded = template.encode({"messages": deepcopy(row["messages"])})
    finally:
        template.set_mode(mode)
    ids, labels = encoded["input_ids"], encoded["labels"]
    start = len(prompt)
    if ids[:start] != prompt:  # a template that rewrites the history: take the last run of labels
        start = len(labels)
        while start and labels[start - 1] == -100:
            start -= 1
        while start and labels[start - 1] != -100:
            start -= 1
    return ids, [place >= start and label != -100 for place, label in enumerate(labels)]


def _batches(lengths: list[int], size: int) -> Iterator[list[int]]:
    """Row numbers in batches, the long ones first: little padding, and memory fails at once or never."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    for start in range(0, len(order), max(size, 1)):
        yield order[start : start + max(size, 1)]


def _halving(numbers: list[int], work: Callable[[list[int]], None]) -> None:
    """Do the work for a batch; when the device is out of memory, for its halves."""
    try:
        work(numbers)
        return
    except torch.OutOfMemoryError:
        if len(numbers) == 1:
            raise
    # outside the handler: the exception would keep the tensors of the failed batch alive
    torch.cuda.empty_cache()
    middle = len(numbers) // 2
    _halving(numbers[:middle], work)
    _halving(numbers[middle:], work)


def _collate(model: Any, template: Any, encoded: list[Row]) -> Row:
    batch = template.data_collator([dict(row) for row in encoded])
    batch.pop("labels", None)
    return {key: value.to(model.device) if hasattr(value, "to") else value for key, value in batch.items()}


def _generation_config(template: Any, max_new_tokens: int) -> Any:
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        max_new_tokens=max_new_tokens,
        use_cache=True,
        eos_token_id=stop_ids(template),
        pad_token_id=template.tokenizer.pad_token_id,
    )


def _criteria(template: Any, config: Any, moment: float | None) -> Any:
    """Stop words of several tokens need swift's criterion (it decodes at every step, so only then)."""
    criteria = StoppingCriteriaList()
    words = template.template_meta.stop_words
    tokenizer = template.tokenizer
    if any(len(w if isinstance(w, list) else tokenizer.encode(w, add_special_tokens=False)) > 1 for w in words):
        criteria.extend(template.prepare_generate_kwargs({"generation_config": config})["stopping_criteria"])
    if moment is not None:
        criteria.append(_Deadline(moment))
    return criteria


def generate(
    model: Any,
    template: Any,
    rows: list[Row],
    *,
    max_new_tokens: int,
    batch_size: int,
    until: float | None = None,
) -> list[Answer | None]:
    """Greedy answers in row order; None for the rows that were not reached before `until`."""
    answers: list[Answer | None] = [None] * len(rows)
    with inference(model, template):
        encoded = encode_prompts(template, rows)
        config = _generation_config(template, max_new_tokens)

        def work(numbers: list[int]) -> None:
            begun = time.perf_counter()
            batch = _collate(model, template, [encoded[number] for number in numbers])
            output = template.generate(
                model, **batch, generation_config=config, stopping_criteria=_criteria(template, config, until)
            )
            answered = template.get_generate_ids(output, batch["input_ids"].shape[1]).tolist()
            if until is not None and time.time() > until:
                return
            seconds = (time.perf_counter() - begun) / len(numbers)
            for number, ids in zip(numbers, answered, strict=True):
                answers[number] = _answer(template, ids, max_new_tokens, seconds)

        for numbers in _batches([len(row["input_ids"]) for row in encoded], batch_size):
            if until is not None and time.time() > until:
                break
            _halving(numbers, work)
    return answers


def _answer(template: Any, ids: list[int], max_new_tokens: int, seconds: float) -> Answer:
    ends = set(stop_ids(template))
    for place, token in enumerate(ids):
        if token in ends:
            ids = ids[: place + 1]
            text = template.decode_generate_ids(ids, is_finished=True)
            return Answer(text, len(ids), True, seconds)
    # no end token: either cut at the limit or ended by a stop word of several tokens
    ids = [token for token in ids if token != template.tokenizer.pad_token_id]
    text = template.decode_generate_ids(ids, is_finished=True)
    return Answer(text, len(ids), len(ids) < max_new_tokens, seconds)


def forward_logits(model: Any, ids: list[list[int]], pad: int, keep: int) -> Any:
    """Logits of the last `keep` places of left-padded sequences, in the model's own number format."""
    width = max(len(row) for row in ids)
    tokens = torch.tensor([[pad] * (width - len(row)) + row for row in ids], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = inspect.signature(base.forward).parameters
    inputs: Row = {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
    if "position_ids" in known:  # a plain forward does not derive them from the padding, generate() does
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    if "logits_to_keep" in known:  # the logits of a whole prompt are the memory of small models
        inputs["logits_to_keep"] = keep
    return model(**inputs).logits[:, -keep:]


def score(model: Any, template: Any, rows: list[Row], *, batch_size: int) -> list[Score]:
    """Negative log-likelihood of each row's last answer, counted on the tokens that training counts."""
    scores: list[Score] = [Score(0.0, 0)] * len(rows)
    with inference(model, template):
        encoded = [encode_answer(template, row) for row in rows]

        def work(numbers: list[int]) -> None:
            chosen = [encoded[number] for number in numbers]
            keep = 1 + max(len(ids) - answer.index(True) if True in answer else 1 for ids, answer in chosen)
            keep = min(keep, max(len(ids) for ids, _ in chosen))
            logits = forward_logits(model, [ids for ids, _ in chosen], template.tokenizer.pad_token_id, keep)
            for number, (ids, answer), row_logits in zip(numbers, chosen, logits, strict=True):
                scores[number] = _score(ids, answer, row_logits)

        for numbers in _batches([len(ids) for ids, _ in encoded], batch_size):
            _halving(numbers, work)
    return scores


def _score(ids: list[int], answer: list[bool], logits: Any) -> Score:
    places = [place for place, counted in enumerate(answer) if counted and place > 0]
    if not places:
        return Score(0.0, 0)
    # place p is predicted by the logits of place p - 1; the logits end with the sequence
    index = torch.tensor([place - 1 - len(ids) for place in places], device=logits.device) + logits.shape[0]
    targets = torch.tensor([ids[place] for place in places], device=logits.device)
    losses = torch.nn.functional.cross_entropy(logits[index].float(), targets, reduction="none")
    return Score(float(losses.double().sum()), len(places))


def next_token(model: Any, template: Any, prompts: list[list[int]], top: int, places: int = 1) -> list[Row]:
    """The most likely next tokens at the last `places` of each prompt, one prompt at a time.

    Returns:
        A row for each place, in order: tokens, their ids and log-probabilities, the likeliest first.
    """
    found = []
    with inference(model, template):
        for prompt in prompts:
            keep = min(places, len(prompt))
            logits = forward_logits(model, [prompt], template.tokenizer.pad_token_id, keep)
            for place in torch.log_softmax(logits[0].float(), -1):
                values, ids = place.topk(top)
                tokens = [template.tokenizer.decode([token]) for token in ids.tolist()]
                found.append({"ids": ids.tolist(), "tokens": tokens, "logprobs": values.tolist()})
    return found


def choose(model: Any, template: Any, rows: list[Row], options: list[list[str]], batch_size: int) -> list[list[Score]]:
    """The likelihood of each given answer to each prompt; a prompt is read once for all its answers.

    Args:
        rows: prompts. options: of each, the answers that could be given.
    """
    found: list[list[Score]] = [[] for _ in rows]
    with inference(model, template):
        encoded = [[_continuation(template, row, option) for option in given] for row, given in _pairs(rows, options)]

        def work(numbers: list[int]) -> None:
            prompts = [encoded[number][0][0] for number in numbers]
            tails = [[tail for _, tail in encoded[number]] for number in numbers]
            for number, scores in zip(numbers, _choose_batch(model, template, prompts, tails), strict=True):
                found[number] = scores

        # Rows with answers of about one length together, among them those with prompts of about one length: a quarter
        # less is padding than with the prompts' order alone.
        weights = [10_000 * (max(len(tail) for _, tail in one) // 4) + len(one[0][0]) for one in encoded]
        for numbers in _batches(weights, batch_size):
            _halving(numbers, work)
    return found


def _pairs(rows: list[Row], options: list[list[str]]) -> Iterator[tuple[Row, list[str]]]:
    return zip(map(prompt_of, rows), options, strict=True)


def _continuation(template: Any, prompt: Row, answer: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, and of an answer to it with its end token."""
    row = {"messages": [*prompt["messages"], {"role": "assistant", "content": answer}]}
    ids, counted = encode_answer(template, row)
    start = counted.index(True) if True in counted else len(ids)
    end = len(counted) - counted[::-1].index(True) if True in counted else len(ids)
    return ids[:start], ids[start:end]


def _choose_batch(
    model: Any, template: Any, prompts: list[list[int]], tails: list[list[list[int]]]
) -> list[list[Score]]:
    """One forward pass over the prompts, and a short one for each place in the lists of answers.

    What all prompts begin with (the system message) is read once, for one row.
    """
    pad, device = template.tokenizer.pad_token_id, model.device
    shared, cache = _shared(prompts), None
    if shared:
        head = model(**_inputs(model, torch.tensor([prompts[0][:shared]], device=device), 0, 1))
        cache = head.past_key_values
        cache.batch_repeat_interleave(len(prompts))
    rest = [row[shared:] for row in prompts]
    width = max(map(len, rest))
    tokens = torch.tensor([[pad] * (width - len(row)) + row for row in rest], device=device)
    marks = [[1] * shared + [0] * (width - len(row)) + [1] * len(row) for row in rest]
    mask = torch.tensor(marks, device=device)
    read = model(**_inputs(model, tokens, shared, 1, mask), past_key_values=cache)
    cache, begun = read.past_key_values, torch.log_softmax(read.logits[:, -1].float(), -1)
    scores: list[list[Score]] = [[] for _ in prompts]
    for place in range(max(map(len, tails))):
        chosen = [row[min(place, len(row) - 1)] for row in tails]
        longest = max(map(len, chosen))
        logits = begun[:, None]
        if longest > 1:
            fed = torch.tensor([tail[:-1] + [pad] * (longest - len(tail)) for tail in chosen], device=device)
            seen = torch.cat([mask, torch.ones_like(fed)], 1)  # what is fed too much comes after what is counted
            more = model(**_inputs(model, fed, mask.shape[1], 0, seen), past_key_values=cache)
            logits = torch.cat([logits, torch.log_softmax(more.logits.float(), -1)], 1)
            cache.crop(mask.shape[1])
        for number, tail in enumerate(chosen):
            if place < len(tails[number]):
                picked = logits[number, torch.arange(len(tail), device=device), torch.tensor(tail, device=device)]
                scores[number].append(Score(-float(picked.double().sum()), len(tail)))
    return scores


def _shared(prompts: list[list[int]]) -> int:
    """How many tokens all prompts begin with; at least one is left of each."""
    shortest = min(map(len, prompts)) - 1
    same = (place for place in range(shortest) if len({row[place] for row in prompts}) > 1)
    return next(same, shortest)


def _inputs(model: Any, tokens: Any, before: int, keep: int, mask: Any = None) -> Row:
    """Arguments of a forward pass over tokens that come after `before` places of a cache."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = inspect.signature(base.forward).parameters
    mask = torch.ones_like(tokens) if mask is None else mask
    found: Row = {"input_ids": tokens, "attention_mask": mask, "use_cache": True}
    if "position_ids" in known:  # a plain forward does not derive them from the padding, generate() does
        found["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, before:]
    if "logits_to_keep" in known:
        found["logits_to_keep"] = keep
    return found
