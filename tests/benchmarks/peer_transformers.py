"""Hugging Face's constrained beam search on the problem in a folder. Prints one JSON line.

A GPT-2 with the same weights. `prefix_allowed_tokens_fn` looks the allowed codes up in a dictionary, the usual way.
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

NAMES = {
    "attention_norm": "ln_1",
    "qkv": "attn.c_attn",
    "attention_out": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_in": "mlp.c_fc",
    "ffn_out": "mlp.c_proj",
}


def gpt2(weights: dict[str, torch.Tensor], heads: int, layers: int) -> GPT2LMHeadModel:
    """Our weights in GPT-2's places; its linear layers are stored transposed."""
    vocabulary, dim = weights["tokens.weight"].shape
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=len(weights["positions.weight"]),
        n_embd=dim,
        n_layer=layers,
        n_head=heads,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(config).eval()
    state = {"transformer.wte.weight": weights["tokens.weight"], "transformer.wpe.weight": weights["positions.weight"]}
    state |= {f"transformer.ln_f.{part}": weights[f"norm.{part}"] for part in ("weight", "bias")}
    for layer in range(layers):
        for ours, theirs in NAMES.items():
            for part in ("weight", "bias"):
                tensor = weights[f"blocks.{layer}.{ours}.{part}"]
                linear = part == "weight" and tensor.dim() == 2
                state[f"transformer.h.{layer}.{theirs}.{part}"] = tensor.T.contiguous() if linear else tensor
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:  # the head is tied to the embeddings
        raise SystemExit(f"weights do not fit GPT-2: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    return model


def constrained_beam_search(
    model: GPT2LMHeadModel, tokens: torch.Tensor, prompt: torch.Tensor, beam: int
) -> torch.Tensor:
    """Log-probabilities of the sequences found, `[rows, beam]`, best first; `tokens` are the items' with padding."""
    levels, length = tokens.shape[1], prompt.shape[1]
    allowed: dict[tuple[int, ...], set[int]] = {}
    for row in tokens[1:].tolist():
        for level in range(levels):
            allowed.setdefault(tuple(row[:level]), set()).add(row[level])
    lists = {prefix: sorted(codes) for prefix, codes in allowed.items()}
    with torch.no_grad():
        found = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=levels,
            min_new_tokens=levels,
            num_beams=beam,
            num_return_sequences=beam,
            do_sample=False,
            length_penalty=0.0,
            early_stopping=True,
            prefix_allowed_tokens_fn=lambda _, ids: lists[tuple(ids[length:].tolist())],
            return_dict_in_generate=True,
            output_scores=True,
        )
    return found.sequences_scores.view(len(prompt), beam).sort(dim=1, descending=True).values


def main() -> None:
    folder, beam, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    about = json.loads((folder / "about.json").read_text())
    data = load_file(folder / "ids.safetensors")
    model = gpt2(load_file(folder / "weights.safetensors"), about["heads"], about["layers"])
    prompt = data["tokens"][data["history"]].flatten(1)
    constrained_beam_search(model, data["tokens"], prompt[:2], beam)  # warm-up
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        found = constrained_beam_search(model, data["tokens"], prompt, beam)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": min(seconds), "log_probs": found[:4].tolist()}))


if __name__ == "__main__":
    main()
