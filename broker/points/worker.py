"""What a worker counts: its turns, and its engine's steps."""

from __future__ import annotations

from broker.points.measurement import Measurement, count, flag, number, text

WORKER_TAGS = ("node", "model", "quantization", "worker")

TURN = Measurement(
    "turn",
    "A turn that ended, by the worker that ended it",
    (*WORKER_TAGS, "run"),
    {
        "client": text("whose: the NATS user, or the client of a gateway's key"),
        "outcome": text("stop, tool_calls, length, cancelled, or the code of a failure"),
        "is_failed": flag("it ended as `failed`"),
        "queue_wait_seconds": number("s", "from its publish to its seat, by two wall clocks"),
        "load_wait_seconds": number(
            "s", "of that, until its worker had loaded its model; absent where that was before its publish"
        ),
        "ttft_seconds": number("s", "from its publish to its first token's choice, by two wall clocks"),
        "tpot_seconds": number("s", "decode ÷ (tokens − 1)"),
        "prefill_seconds": number("s", "its share of the steps"),
        "decode_seconds": number("s", "from its first token to its last"),
        "prefill_tokens_per_second": number("tokens/s", "prompt tokens not from the cache ÷ prefill"),
        "decode_tokens_per_second": number("tokens/s", "(tokens − 1) ÷ decode"),
        "prompt_tokens": count("tokens", ""),
        "num_texts": count("texts", "of which vectors were made; absent of a turn that was answered with text"),
        "cached_tokens": count("tokens", "of those, not computed again"),
        "completion_tokens": count("tokens", ""),
        "reasoning_tokens": count("tokens", "of those, the thoughts'"),
        "drafted_tokens": count("tokens", "guessed and computed besides, as decode steps had room for them"),
        "accepted_tokens": count("tokens", "of the guesses, those that the completion has: they cost no step"),
        "cached_in_context_tokens": count("tokens", "of the cached ones, those that the context still held"),
        "cached_in_ram_tokens": count("tokens", "those of a state parked in RAM"),
        "cached_in_board_tokens": count("tokens", "those of a state that the board kept over a swap of models"),
        "cached_in_disk_tokens": count("tokens", "those of a state parked on disk"),
        "cached_in_peer_tokens": count("tokens", "those of a state that another worker gave"),
        "recomputed_evicted_tokens": count("tokens", "computed again: the caps had no room for their state"),
        "recomputed_killed_tokens": count("tokens", "computed again: the worker that had them is gone"),
        "recomputed_swapped_tokens": count("tokens", "computed again: their worker made room for another model"),
        "recomputed_fingerprint_tokens": count(
            "tokens", "computed again: their state was another model file's or layout's"
        ),
        "recomputed_cheaper_tokens": count("tokens", "computed again: quicker than fetching them from another worker"),
        "recomputed_overflow_tokens": count("tokens", "computed again: older turns were left out before them"),
        "fetch_seconds": number("s", "for the state to come from another worker; absent where none came"),
        "dropped_messages": count("messages", "left out, as the context would not hold them"),
        "num_calls": count("calls", "of tools, whole"),
        "broken_cut_off_calls": count("calls", "that are text, as the answer ended within them"),
        "broken_unknown_tool_calls": count("calls", "that are text: no such tool was offered"),
        "broken_invalid_json_calls": count("calls", "that are text: their arguments are no JSON"),
        "broken_invalid_arguments_calls": count("calls", "that are text: their arguments are no object"),
        "broken_invalid_syntax_calls": count("calls", "that are text: not written as the model's calls are"),
        "broken_too_many_calls": count("calls", "that are text: one answer may hold no more"),
        "attempt": count("", "0 unless the answer had to start anew"),
        "num_resumed_tokens": count("tokens", "that an earlier worker had sent"),
        "joules": number("J", "its share of the node's power over its steps; absent without a source of watts"),
    },
)
ENGINE = Measurement(
    "engine",
    "A second of a worker's engine; absent fields in an idle one",
    WORKER_TAGS,
    {
        "num_steps": count("steps", "calls of llama_decode"),
        "batch_size": number("sequences", "mean number of sequences in a decode step"),
        "step_seconds": number("s", "mean"),
        "max_step_seconds": number("s", "the longest"),
        "busy_ratio": number("ratio", "time in steps"),
        "prefill_tokens_per_second": number("tokens/s", "prompt tokens computed in this second"),
        "decode_tokens_per_second": number("tokens/s", "tokens chosen in this second"),
        "texts_per_second": number("texts/s", "of which vectors were made; of an embedding model's worker only"),
        "drafted_tokens": count("tokens", "guessed and computed in this second"),
        "accepted_tokens": count("tokens", "of those, the ones that were right"),
        "num_active": count("turns", "seated"),
        "num_waiting": count("turns", "taken, not seated yet"),
        "num_slots": count("turns", ""),
        "num_cells_used": count("tokens", "KV cells in use, those of idle conversations among them"),
        "num_cells": count("tokens", "KV cells that there are"),
        "num_threads": count("threads", "that a decode step takes now"),
        "num_threads_batch": count("threads", "that a prefill step takes now"),
        "num_parked": count("conversations", "parked in RAM"),
        "parked_bytes": count("B", "their states"),
        "num_on_disk": count("conversations", "parked on disk"),
        "disk_bytes": count("B", "their files"),
        "num_evicted": count("conversations", "given up by a cap since the worker's start"),
        "given_bytes": count("B", "of states sent to other workers in this second"),
        "copy_ratio": number("ratio", "time spent on copying states out of the context and into it"),
        "read_bytes_per_second": number("B/s", "(weights + KV state read) of the decode steps ÷ their time"),
        "read_peak_bytes_per_second": number(
            "B/s", "measured at start: what memory gives to 1, 2, … threads that only read, the best of them"
        ),
        "read_ratio": number("ratio", "read_bytes_per_second ÷ read_peak_bytes_per_second"),
        "num_dropped": count("points", "dropped by this worker, its buffer full while NATS was away"),
    },
)
